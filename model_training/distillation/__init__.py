"""
What makes the bundled model: the published convolutions as they are, and low-rank fully connected
layers that a stronger network teaches them.

The way of an image, and the modules that it passes:

    a public set's git repository    sets.py        which, at which commit, with which licence
      | images.py                                 read from git's objects: no work tree
    bytes
      | crops.py                                    random crops of 224 x 224
      | networks.py                                 trunk and teacher (ingredients.py) in 8 bit
    features, the teacher's logits   harvest.py     kept on disk, a file for each part of a set
      | duplicates.py, lessons.py                   less what the evaluation photographs show too
      | head.py, learn.py                           learned
      | validation.py                               measured, calibrated
    weights                          distil.py      a safetensors file that alexnet-export reads
"""

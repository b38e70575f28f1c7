"""
How the bundled model is made.  The published convolutions stay as they are, and a stronger network
teaches the low-rank fully connected layers.

An image passes these modules:

    a public set's git repository    sources.py     which, at which commit, with which licence
      | image_reader.py                             read from git's objects, without a work tree
    bytes
      | crops.py                                    random crops of 224 x 224
      | networks.py                                 trunk and teacher (pretrained.py) in 8 bit
    features, the teacher's logits   feature_extraction.py   on disk, a file for each part of a set
      | duplicates.py, dataset.py                   without what the evaluation photographs show
      | student.py, train.py                        the student learns
      | calibration.py                              measured, calibrated
    weights                          distil.py      a safetensors file that alexnet-export reads
"""

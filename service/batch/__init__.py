"""
Folders of images -> one table of scores.  They may be of any size.

    files.py      the images in the folders; what cannot be read
    reader.py     files -> outcomes, through the classifier, so many at a time
    cluster.py    the same on many machines, with Ray Data
    store.py      outcomes, safe on the disk while the work goes on
    tables.py     the table at the end, in the format that its name says
    job.py        one scoring job from its settings to its end
"""

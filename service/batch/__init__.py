"""
A folder of images of any size -> one table of scores.

    files.py      the images in the folders; what cannot be read
    reader.py     files -> outcomes, through the classifier, so many at a time
    cluster.py    the same on many machines, with Ray Data
    store.py      outcomes, safe on the disk while the work goes on
    tables.py     the store -> .parquet, .jsonl or .csv
    progress.py   how far it is
    signals.py    how it is stopped early
    job.py        one scoring job from its beginning to its end
    command.py    from the settings to a job
"""

"""
A folder of images of any size -> one table of scores.

    files.py      the images in the folders; what cannot be read
    scorer.py     names -> outcomes, through the classifier, so many at a time
    cluster.py    the same over many machines, with Ray Data
    journal.py    outcomes, safe on the disk while the work goes on
    tables.py     journal -> .parquet, .jsonl or .csv
    progress.py   how far it is
    stopping.py   how it is ended early
    job.py        where they meet
    command.py    from the settings to a job
"""

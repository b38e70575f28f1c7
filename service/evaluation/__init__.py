"""
A folder of labelled images -> how good models are, and how well they know it.

    classes.py      what a model's classes are called
    labels.py       the images in the folder, and what each of them shows
    decoding.py     names -> pixels, as the service makes them
    predicted.py    pixels -> what each model predicts with each choice of crops
    intervals.py    how far a share, or the difference of two, may be off
    calibration.py  whether "0.61" means 61%
    accuracy.py     predictions -> top-1, top-5, calibration; and the paired differences
    confusion.py    predictions -> per class, per pair of classes, per image
    formatting.py   shares and intervals as people read them
    results.py      all of it as JSON has it; summary, report and record have the same
    summary.py      for people, short: tables on the terminal
    report.py       for people, whole: one HTML file
    record.py       for the model file's own record
"""

"""
How good models are, on a folder of labelled images.  Also how well they know it.

    labels.py       the images in the folder, what each of them shows, what classes are called
    predicted.py    names -> pixels, as the service makes them -> what each model predicts with
                    each choice of crops
    intervals.py    how far a share, or the difference of two, may be off
    calibration.py  whether "0.61" means 61%
    accuracy.py     predictions -> top-1, top-5, calibration; and the paired differences
    confusion.py    predictions -> per class, per pair of classes, per image
    results.py      all of it as JSON has it, and for the model file's own record
    report.py       for people: tables on the terminal, one HTML file
"""

"""
A folder of labelled images -> how good models are, and how well they know it.

    classes.py      what a model's classes are called
    truth.py        the images in the folder, and what each of them shows
    decoding.py     names -> pixels, as the service makes them
    answers.py      pixels -> what each model says with each choice of crops
    intervals.py    how far a share, or the difference of two, may be off
    calibration.py  whether "0.61" means 61%
    figures.py      answers -> top-1, top-5, calibration; and the paired differences
    mistakes.py     answers -> per class, per pair of classes, per image
    words.py        figures as people read them
    results.py      all of it as JSON has it; terminal, report and record say the same
    terminal.py     for people, short
    report.py       for people, whole: one HTML file
    record.py       for the model file's own record
    command.py      from the settings to the results
"""

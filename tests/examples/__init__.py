"""
The documentation's examples: how its pages are read, run and compared.

* ``pages``       a page -> its blocks, each given to what makes it true
* ``workplace``   where they run: a copy of the checkout, ports, a terminal that remembers
* ``installed``   what stands for `.venv` there, and ``stand_in`` for our commands
* ``interpreter`` runs the blocks in Python
* ``answers``     what is shown against what came out
* ``notations``   parses what is data
* ``claims``      what is named must exist; reasons for not running must be true
"""

"""
Build time: labelled images -> weights that ``alexnet-export`` reads.

``alexnet-train`` is the paper's recipe, for any labelled folder, from nothing or from published
weights.  ``alexnet-distill`` makes the bundled model.
"""

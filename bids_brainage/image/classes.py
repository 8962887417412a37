"""The network's 18 classes and the tissues that they make up."""

CLASSES = (
    "background", "csf", "cerebral_cortex", "cerebral_white_matter", "lateral_ventricle", "third_ventricle",
    "fourth_ventricle", "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens",
    "ventral_dc", "brainstem", "cerebellar_cortex", "cerebellar_white_matter",
)  # fmt: skip
NUMBER = {name: position for position, name in enumerate(CLASSES)}
FREESURFER = (
    (0, 0), (24, 24), (3, 42), (2, 41), (4, 43), (14, 14), (15, 15), (10, 49), (11, 50), (12, 51), (13, 52), (17, 53),
    (18, 54), (26, 58), (28, 60), (16, 16), (8, 47), (7, 46),
)  # fmt: skip
"""FreeSurfer's number of each class on the left and on the right."""
GREY = tuple(
    NUMBER[name]
    for name in (
        "cerebral_cortex", "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens",
        "cerebellar_cortex",
    )
)  # fmt: skip
"""Classes of grey matter: cortex, deep grey, cerebellar cortex."""
WHITE = tuple(NUMBER[name] for name in ("cerebral_white_matter", "ventral_dc", "brainstem", "cerebellar_white_matter"))
"""Classes counted as white matter, brainstem and ventral diencephalon among them."""
FLUID = tuple(NUMBER[name] for name in ("csf", "lateral_ventricle", "third_ventricle", "fourth_ventricle"))
"""CSF, ventricles included."""

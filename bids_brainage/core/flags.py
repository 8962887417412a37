"""What limits trust in a row of the tables, in words: every flag that the app raises, once."""

FLAGS = {
    "contrast_enhanced": "The image has the entity ce-: contrast agent changes tissue intensities",
    "rec_variant": "Another reconstruction of an acquisition that has its own row; averages count one of them",
    "age_not_by_session": "One age of participants.tsv stands for several sessions",
    "nonfinite_voxels": "At most 1 % of the voxels were NaN or infinite, and were set to 0",
    "anisotropic": "A voxel side is over 3 mm, or over twice another",
    "large_voxels": "All voxel sides exceed 2.2 mm: regional volumes were corrected for that and are less certain",
    "small_field_of_view": "The image covers less than 140 mm along an axis",
    "already_stripped": "The image came without skull: regional volumes were corrected for that and are less certain",
    "brain_volume_unusual": "Brain mask or intracranial mask are smaller or larger than those of adults",
    "brain_shape_unusual": "The brain mask is longer or rounder than a brain",
    "brain_cut": "The brain comes close to the edge of the field of view: part of it may be missing",
    "mask_disagrees": "The mask that was given (or SynthStrip's) overlaps the network's with a Dice under 0.8",
    "segmentation_uncertain": "What was found as brain explains under a quarter of the variance of the intensities",
    "registration_uncertain": "The brain hardly resembles the template once registered, or had to be warped a lot",
    "contrast_exchanged": "Tissues come in the reverse order of a T1w image (or air is bright): dark and bright were "
    "exchanged",
    "contrast_not_t1w": "White matter is not brighter than grey matter: this is no T1w contrast of an adult",
    "low_contrast": "White and grey matter differ by less than the spread within them",
    "regions_empty": "More than five regions of the atlas were not found",
    "volumes_beyond_reference": "Many regions are smaller or larger than in 98 % of healthy people of this age and sex",
    "sex_missing": "The sex is unknown: the model took the middle between woman and man",
    "volumes_out_of_distribution": "A region or the ICV lies further out than in 99 % of healthy people",
    "brain_age_outside_training_range": "The brain age lies outside the ages that the model is for",
    "brain_age_at_limit": "More than half of the probability lies in the youngest or the oldest year that the model "
    "can say: the brain may be younger or older",
    "age_outside_model_range": "The person's age lies outside the ages that the model is for",
    "age_outside_correction_range": "The person's age lies outside the ages of the controls of the bias correction",
    "unusable": "Of `brainage predict`: no brain age can be given of these volumes, `note` says why; not averaged",
}


def table() -> str:
    """The flags as a Markdown table, for the docs."""
    return "| flag | meaning |\n|---|---|\n" + "".join(f"| `{name}` | {text} |\n" for name, text in FLAGS.items())

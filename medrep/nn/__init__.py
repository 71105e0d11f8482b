"""Networks: how covariates enter, and the two bodies, for columns without order and for voxels."""

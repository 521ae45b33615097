"""What the `tpu` command is made of: slices as gcloud has them, and what their hosts get."""

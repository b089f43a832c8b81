"""S3 on folders: buckets are folders, objects are plain files in them, so that what is put there by hand is an object as well."""

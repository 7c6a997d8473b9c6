"""From a sweep file to a study: `sweep_file` reads it, `studies` plans and keeps it, `worker` runs its trials."""

"""From a sweep file to a study: `reading` checks it, `studies` plans and keeps it, `worker` runs its trials."""

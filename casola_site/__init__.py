"""The Casola site: settings, URLs and what every app shares."""

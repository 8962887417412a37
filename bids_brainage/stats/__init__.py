"""Statistics on arrays: bias corrections of brain age and comparisons of groups. People are the units, never runs."""

"""The lab: two miniature worlds, offline, in which the methods can be tried in minutes."""

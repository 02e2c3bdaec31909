"""The lab: a miniature multilingual world, offline, in which the methods can be tried in minutes."""

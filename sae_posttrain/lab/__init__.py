"""The lab: two miniature tasks ("worlds") to try the methods offline within minutes."""

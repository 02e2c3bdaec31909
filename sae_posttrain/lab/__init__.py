"""The lab: two miniature tasks ("worlds") for trying the methods offline within minutes."""

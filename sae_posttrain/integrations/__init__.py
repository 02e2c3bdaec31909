"""SASFT inside training frameworks other than TRL: one file for each, which alone imports the framework."""

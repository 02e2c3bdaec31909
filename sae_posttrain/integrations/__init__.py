"""SASFT in training frameworks other than TRL: one file for each framework. No other file imports the framework."""

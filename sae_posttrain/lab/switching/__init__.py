"""The miniature world of code-switching: its model switches language, and SASFT reduces this."""

"""Development tools. Not part of the installed package."""

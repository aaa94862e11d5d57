"""Pages as layouts again: boxes found in a picture, and files of layouts."""

"""`detector predict`: boxes on images, folders and video."""

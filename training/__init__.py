"""Fine-tunes an image classifier. Begin with `training/recipe.py`: it tells the story in order."""

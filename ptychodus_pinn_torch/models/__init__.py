"""Model archives that the package ships."""

"""Where places, texts, images and labels come from: one module for each source."""

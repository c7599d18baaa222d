"""From a picture in any form to pixels, and back to drawings on it."""

"""What training needs beside the model: conversations as batches with labels."""

"""What differs between the transformers versions that the package admits."""

import transformers
from packaging.version import Version

# Before 5.23 the library's own loop for `generate(prefill_chunk_size=...)` drops the images without a word.
CHUNKED_PREFILL_READS_IMAGES = Version(transformers.__version__).release >= (5, 23)

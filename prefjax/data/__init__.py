"""Records to arrays: readers, prepared sets, tokenising, and batches with a cursor."""

from prefjax.data.batching import Batch as Batch
from prefjax.data.batching import Batches as Batches
from prefjax.data.batching import batches as batches
from prefjax.data.jsonl import parse_jsonl as parse_jsonl
from prefjax.data.jsonl import read_jsonl as read_jsonl
from prefjax.data.prepared import cache_directory as cache_directory
from prefjax.data.prepared import prepare_jsonl as prepare_jsonl
from prefjax.data.records import PREFERENCE as PREFERENCE
from prefjax.data.records import PROMPT_COMPLETION as PROMPT_COMPLETION
from prefjax.data.records import PROMPT_ONLY as PROMPT_ONLY
from prefjax.data.records import Identity as Identity
from prefjax.data.records import Kind as Kind
from prefjax.data.records import Records as Records
from prefjax.data.tokenisers import check_tokenizer as check_tokenizer
from prefjax.data.tokenisers import load_tokenizer as load_tokenizer
from prefjax.data.tokenisers import tokenizer_fingerprint as tokenizer_fingerprint
from prefjax.data.tokenising import Sequences as Sequences
from prefjax.data.tokenising import TokenRows as TokenRows
from prefjax.data.tokenising import tokenise as tokenise

"""Arrays to log-probabilities and samples: a decoder, its heads, its files."""

from prefjax.policy.config import DecoderConfig as DecoderConfig
from prefjax.policy.config_json import read_config as read_config
from prefjax.policy.distribution import draw as draw
from prefjax.policy.distribution import draw_next as draw_next
from prefjax.policy.distribution import next_token_logits as next_token_logits
from prefjax.policy.functional import Policy as Policy
from prefjax.policy.functional import abstract as abstract
from prefjax.policy.functional import hidden_states as hidden_states
from prefjax.policy.functional import init as init
from prefjax.policy.functional import logits as logits
from prefjax.policy.functional import output_weights as output_weights
from prefjax.policy.functional import scores as scores
from prefjax.policy.huggingface_read import load_huggingface as load_huggingface
from prefjax.policy.huggingface_write import save_huggingface as save_huggingface
from prefjax.policy.logps import completion_logps as completion_logps
from prefjax.policy.logps import logps_from_hidden as logps_from_hidden
from prefjax.policy.sampler import Mixture as Mixture
from prefjax.policy.sampler import Samples as Samples
from prefjax.policy.sampler import sample as sample

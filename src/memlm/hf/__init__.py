"""The model as a Hugging Face model; importing this package registers it with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM

from memlm.hf.configuration import MemlmConfig
from memlm.hf.grafted import GraftedConfig, GraftedForCausalLM
from memlm.hf.modeling import MemlmForCausalLM

AutoConfig.register("memlm", MemlmConfig)
AutoModelForCausalLM.register(MemlmConfig, MemlmForCausalLM)
AutoConfig.register("memlm-grafted", GraftedConfig)
AutoModelForCausalLM.register(GraftedConfig, GraftedForCausalLM)

__all__ = ["GraftedConfig", "GraftedForCausalLM", "MemlmConfig", "MemlmForCausalLM"]

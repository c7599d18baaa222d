"""What this package touches of other libraries although they do not promise it, one by one, by the file that does.

A test looks each of them up, so a release in which one is gone says which. Another test finds them all in this room's
code and none outside of it. Class attributes that transformers asks of every model are its contract, not listed here.
"""

# Class attributes of models that transformers reads; modeling files set them.
CONTRACT = frozenset({"_can_record_outputs", "_no_split_modules", "_tied_weights_keys", "_tp_plan"})

# For each file of this room what it touches, by importable names, and why nothing public will do.
TOUCHES: dict[str, dict[str, str]] = {
    "model": {
        "transformers.PreTrainedModel._init_weights": "the hook for fresh weights, renamed for subclasses",
        "transformers.PreTrainedModel._can_set_attn_implementation": "transformers would search a module's source",
        "transformers.PreTrainedModel._can_set_experts_implementation": "the same",
        "transformers.PreTrainedModel._keys_to_ignore_on_load_unexpected": "set while a model loads; engines obey it",
        "transformers.PreTrainedModel._load_pretrained_model": "the files that are about to be read, from wherever",
        "transformers.PreTrainedModel._finalize_model_loading": "what was missing, before random numbers are drawn",
        "transformers.core_model_loading.revert_weight_conversion": "reads `_weight_conversions`",
        "torch.nn.Module._apply": "what may not be moved or cast; overriding `to` would miss some ways",
    },
    "attention": {
        "transformers.PreTrainedConfig._attn_implementation": "what a config asks for; nothing public reads it",
        "transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS": "functions by name, as its own models look them up",
    },
    "experts": {
        "transformers.PreTrainedConfig._experts_implementation": "as of attention",
        "transformers.integrations.use_experts_implementation": "the only way into the experts interface",
        "transformers.integrations.moe.ALL_EXPERTS_FUNCTIONS": "the function behind `grouped_mm`",
    },
    "layers": {
        "transformers.models.llama.modeling_llama.LlamaAttention": "equal to the bit; single layers are not public",
        "transformers.models.llama.modeling_llama.LlamaRMSNorm": "the same",
        "transformers.models.llama.modeling_llama.LlamaRotaryEmbedding": "the same",
        "transformers.models.llama.modeling_llama.apply_rotary_pos_emb": "the same",
        "transformers.models.llama.modeling_llama.eager_attention_forward": "the default of the attention interface",
        "transformers.modeling_layers.GradientCheckpointingLayer": "checkpointing with a cache",
        "transformers.masking_utils.create_causal_mask": "masks for every attention that can be asked for",
        "transformers.utils.generic.merge_with_config_defaults": "`use_cache` as in all its models",
        "transformers.utils.output_capturing.capture_outputs": "`output_hidden_states` and its like",
        "transformers.utils.output_capturing.OutputRecorder": "names what is recorded",
        "transformers.initialization": "fresh weights, left alone where a checkpoint gave some",
    },
    "cache": {
        "transformers.cache_utils.DynamicLayer": "the layer that grows in place is one of these",
    },
    "generation": {
        "transformers.GenerationMixin._expand_inputs_for_generation": "beams get their prompt's images",
    },
    "register": {
        "transformers.models.auto.configuration_auto.CONFIG_MAPPING._extra_content": "undo; what is another's goes on",
        "transformers.AutoModel._model_mapping._extra_content": "undo",
        "transformers.models.auto.processing_auto.PROCESSOR_MAPPING._extra_content": "undo; what is another's goes on",
        "transformers.models.auto.processing_auto.PROCESSOR_MAPPING_NAMES": "names in files win over registrations",
        "transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING._extra_content": "undo",
        "transformers.models.auto.image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES": "as of processors, before 5.19",
        "transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING._extra_content": "undo",
        "transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING_NAMES": "sends AutoTokenizer to our class",
        "transformers.models.auto.tokenization_auto.REGISTERED_TOKENIZER_CLASSES": "undo",
        "transformers.models.auto.tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS": "theirs is wrong",
        "transformers.AttentionInterface._global_mapping": "undo",
        "transformers.AttentionMaskInterface._global_mapping": "undo",
        "transformers.integrations.moe.ExpertsInterface._global_mapping": "undo",
        "transformers.masking_utils.sdpa_mask": "the masks of our attention",
        "transformers.quantizers.auto.AUTO_QUANTIZER_MAPPING": "undo; the decorators are public",
        "transformers.quantizers.auto.AUTO_QUANTIZATION_CONFIG_MAPPING": "undo",
        "transformers.quantizers.auto.register_quantizer": "public, but not in a public module",
        "transformers.quantizers.auto.register_quantization_config": "the same",
        "transformers.conversion_mapping.register_checkpoint_conversion_mapping": "the only way in",
        "transformers.conversion_mapping.get_checkpoint_conversion_mapping": "builds the table",
        "transformers.conversion_mapping._checkpoint_conversion_mapping_cache": "undo",
        "transformers.conversion_mapping.USER_REGISTERED_MAPPINGS": "undo",
        "transformers.pipelines.PIPELINE_REGISTRY": "its `register_pipeline` warns, and marks a class as custom code",
    },
    "serving": {
        "transformers.cli.serve.Serve": "the server of `transformers serve`; a command, not a documented class",
        "transformers.PreTrainedTokenizerFast._tokenizer": "the server decodes with it",
        "transformers.cli.serving.model_manager.TimedModel": "as the server keeps it",
        "transformers.models.auto.modeling_auto": "tables of names, by which the server tells what takes pictures",
        "transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES": "model types that transformers has itself",
        "transformers.utils.import_utils.is_serve_available": "what the server needs",
    },
    "pipelines": {
        "transformers.ImageTextToTextPipeline._forward": "the documented hook of pipelines",
        "transformers.AnyToAnyPipeline._forward": "the same",
    },
    "elsewhere": {
        "transformers.dynamic_module_utils.get_class_from_dynamic_module": "as AutoConfig would do it",
        "transformers.dynamic_module_utils.resolve_trust_remote_code": "the same",
    },
    "callers": {
        "sys._getframe": "what AutoConfig's caller says of a checkpoint's code, and who calls; configs never learn",
        "transformers.models.auto.configuration_auto.AutoConfig.from_pretrained": "found among the callers by its name",
    },
    "trl": {
        "trl.trainer.utils.create_model_from_path": "takes a model's class by its architecture's name",
    },
    "peft": {
        "peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING": "default layers",
    },
    "loading": {
        "transformers.core_model_loading.Chunk": "changes tensors while a checkpoint loads; the only way",
        "transformers.core_model_loading.Concatenate": "changes tensors while a checkpoint loads; the only way",
        "transformers.core_model_loading.ConversionOps": "changes tensors while a checkpoint loads; the only way",
        "transformers.core_model_loading.MergeModulelist": "changes tensors while a checkpoint loads; the only way",
        "transformers.core_model_loading.WeightConverter": "changes tensors while a checkpoint loads; the only way",
        "transformers.core_model_loading.WeightRenaming": "changes tensors while a checkpoint loads; the only way",
    },
    "ddp": {
        "torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model": "4-bit ones stay",
    },
    "zero": {
        "transformers.integrations.deepspeed.unset_hf_deepspeed_config": "the source is read whole beside parts",
    },
    "offload": {
        "accelerate.utils.align_module_device": "exported, not documented",
    },
    "processors": {
        "transformers.ProcessorMixin._merge_kwargs": "sorts a call's arguments by modality",
        "transformers.processing_utils.MultiModalData": "what vLLM's contract returns",
        "transformers.PreTrainedTokenizerFast.from_pretrained": "keeps its arguments in `init_kwargs`",
        "transformers.image_processing_utils.BaseImageProcessor._set_attributes": "settings of a call",
        "transformers.image_processing_utils.BaseImageProcessor._prepare_images_structure": "our own opening",
        "transformers.image_processing_utils.BaseImageProcessor._standardize_kwargs": "settings that are ours alone",
        "transformers.image_processing_utils.BaseImageProcessor._preprocess": "its documented hook",
    },
    "quantizer": {
        "transformers.quantizers.quantizers_utils.get_module_from_name": "as its own quantizers do",
        "transformers.quantizers.quantizers_utils.should_convert_module": "the same",
        "transformers.PreTrainedModel._keep_in_fp32_modules": "modules that no quantizer may touch",
    },
    "kernels": {
        "torch.Tensor._make_wrapper_subclass": "torchao's own pattern for tensor subclasses",
        "torch.nn.Module._save_to_state_dict": "packed weights cannot be saved",
        "torch.nn.Module._load_from_state_dict": "nor replaced",
        "torch.ops.mkldnn._is_mkldnn_bf16_supported": "whether oneDNN has bfloat16 here",
        "torch.cpu._is_avx512_bf16_supported": "whether the processor itself has it",
        "torch.cpu._is_amx_tile_supported": "the same",
        "torch.ops.quantized.linear_prepack_fp16": "float16 weights for float32 inputs",
        "torch.ops.quantized.linear_dynamic_fp16": "products with them",
        "torch.ops.mkldnn._reorder_linear_weight": "oneDNN's blocks",
        "torch.ops.mkldnn._linear_pointwise": "products with them",
        "torch.ops.aten._convert_weight_to_int4pack_for_cpu": "4-bit weights for a CPU",
        "torch.ops.aten._weight_int4pack_mm_for_cpu": "products with them",
        "torch.ops.aten._to_copy": "refuses casts of 4-bit weights",
        "torch.nn.Module._forward_hooks": "layers with hooks are not packed",
        "torch.nn.Module._forward_pre_hooks": "the same",
        "accelerate.hooks.add_hook_to_module": "sets `_hf_hook`, by which offloaded layers are told",
    },
    "torchao": {
        "torchao.prototype.quantization.int4.Int4OpaqueTensor": "4-bit weights for a CPU",
        "torchao.prototype.quantization.int4.PrototypeInt4WeightOnlyConfig": "their recipe",
        "torchao.quantization.Int4TilePackedTo4dTensor": "4-bit weights for CUDA",
        "torchao.utils.TorchAOBaseTensor": "the base of tensor subclasses",
        "torchao.quantization.Int4WeightOnlyConfig": "their recipe",
    },
}

# The first release of transformers in which something is no longer touched.
NOT_FROM = {"transformers.GenerationMixin._expand_inputs_for_generation": "5.23"}
# vLLM looks for it on processors; transformers' base class has it in some releases.
CONTRACT_OF_ENGINES = frozenset({"_get_num_multimodal_tokens"})

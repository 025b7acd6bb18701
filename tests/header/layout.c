/* Where each field of each public structure lies on 64-bit systems (LP64): what compiled programs and bindings rely
 * on. A line here never changes; new fields get new lines at a structure's end. */
#include <diffusion.h>

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has another size")
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " has moved")

SIZE(diffusion_status, 4);
SIZE(diffusion_option, 4);
SIZE(diffusion_device, 4);
SIZE(diffusion_log_level, 4);
SIZE(diffusion_option_type, 4);
SIZE(diffusion_stage, 4);
SIZE(diffusion_sampler, 4);
SIZE(diffusion_format, 4);

SIZE(diffusion_engine_desc, 40);
AT(diffusion_engine_desc, struct_size, 0);
AT(diffusion_engine_desc, device, 4);
AT(diffusion_engine_desc, threads, 8);
AT(diffusion_engine_desc, log_level, 12);
AT(diffusion_engine_desc, memory_limit_host, 16);
AT(diffusion_engine_desc, log, 24);
AT(diffusion_engine_desc, log_user_data, 32);

SIZE(diffusion_engine_info, 48);
AT(diffusion_engine_info, struct_size, 0);
AT(diffusion_engine_info, device, 4);
AT(diffusion_engine_info, threads, 8);
AT(diffusion_engine_info, reserved, 12);
AT(diffusion_engine_info, memory_used, 16);
AT(diffusion_engine_info, memory_peak, 24);
AT(diffusion_engine_info, memory_limit, 32);
AT(diffusion_engine_info, device_name, 40);

SIZE(diffusion_model_desc, 16);
AT(diffusion_model_desc, struct_size, 0);
AT(diffusion_model_desc, reserved, 4);
AT(diffusion_model_desc, variant, 8);

SIZE(diffusion_model_info, 64);
AT(diffusion_model_info, struct_size, 0);
AT(diffusion_model_info, width, 4);
AT(diffusion_model_info, height, 8);
AT(diffusion_model_info, size_multiple, 12);
AT(diffusion_model_info, latent_channels, 16);
AT(diffusion_model_info, max_tokens, 20);
AT(diffusion_model_info, parameters, 24);
AT(diffusion_model_info, weight_bytes, 32);
AT(diffusion_model_info, pipeline_class, 40);
AT(diffusion_model_info, prediction_type, 48);
AT(diffusion_model_info, default_sampler, 56);

SIZE(diffusion_option_info, 56);
AT(diffusion_option_info, struct_size, 0);
AT(diffusion_option_info, option, 4);
AT(diffusion_option_info, type, 8);
AT(diffusion_option_info, choice_count, 12);
AT(diffusion_option_info, min, 16);
AT(diffusion_option_info, max, 24);
AT(diffusion_option_info, default_value, 32);
AT(diffusion_option_info, name, 40);
AT(diffusion_option_info, summary, 48);

SIZE(diffusion_session_desc, 8);
AT(diffusion_session_desc, struct_size, 0);
AT(diffusion_session_desc, queue_limit, 4);

SIZE(diffusion_progress, 24);
AT(diffusion_progress, struct_size, 0);
AT(diffusion_progress, stage, 4);
AT(diffusion_progress, step, 8);
AT(diffusion_progress, steps, 12);
AT(diffusion_progress, elapsed_ns, 16);

SIZE(diffusion_result, 80);
AT(diffusion_result, struct_size, 0);
AT(diffusion_result, image_count, 4);
AT(diffusion_result, width, 8);
AT(diffusion_result, height, 12);
AT(diffusion_result, prompt_tokens, 16);
AT(diffusion_result, prompt_tokens_dropped, 20);
AT(diffusion_result, negative_tokens, 24);
AT(diffusion_result, negative_tokens_dropped, 28);
AT(diffusion_result, sampler, 32);
AT(diffusion_result, steps, 36);
AT(diffusion_result, seed, 40);
AT(diffusion_result, text_ns, 48);
AT(diffusion_result, denoise_ns, 56);
AT(diffusion_result, decode_ns, 64);
AT(diffusion_result, total_ns, 72);

SIZE(diffusion_image_info, 32);
AT(diffusion_image_info, struct_size, 0);
AT(diffusion_image_info, width, 4);
AT(diffusion_image_info, height, 8);
AT(diffusion_image_info, channels, 12);
AT(diffusion_image_info, format, 16);
AT(diffusion_image_info, reserved, 20);
AT(diffusion_image_info, row_stride, 24);

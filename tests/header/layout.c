/* Where each field of each public structure lies on 64-bit systems (LP64): what compiled programs and bindings rely
 * on. A line here never changes; new fields get new lines at a structure's end. */
#include <diffusion.h>

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has another size")
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field " has moved")

SIZE(diffusion_status, 4);
SIZE(diffusion_option, 4);
SIZE(diffusion_device, 4);
SIZE(diffusion_precision, 4);
SIZE(diffusion_weight_format, 4);
SIZE(diffusion_log_level, 4);
SIZE(diffusion_option_type, 4);
SIZE(diffusion_stage, 4);
SIZE(diffusion_sampler_id, 4);
SIZE(diffusion_format, 4);
SIZE(diffusion_prediction, 4);
SIZE(diffusion_beta_schedule, 4);
SIZE(diffusion_schedule_table, 4);
SIZE(diffusion_sigma_schedule, 4);
SIZE(diffusion_profile, 4);
SIZE(diffusion_clip, 4);
SIZE(diffusion_guidance_method, 4);

SIZE(diffusion_engine_desc, 72);
AT(diffusion_engine_desc, struct_size, 0);
AT(diffusion_engine_desc, device, 4);
AT(diffusion_engine_desc, threads, 8);
AT(diffusion_engine_desc, log_level, 12);
AT(diffusion_engine_desc, memory_limit_host, 16);
AT(diffusion_engine_desc, log, 24);
AT(diffusion_engine_desc, log_user_data, 32);
AT(diffusion_engine_desc, device_index, 40);
AT(diffusion_engine_desc, precision, 44);
AT(diffusion_engine_desc, memory_limit_device, 48);
AT(diffusion_engine_desc, cuda_library_directory, 56);
AT(diffusion_engine_desc, strict, 64);
AT(diffusion_engine_desc, reserved, 68);

SIZE(diffusion_engine_info, 56);
AT(diffusion_engine_info, struct_size, 0);
AT(diffusion_engine_info, device, 4);
AT(diffusion_engine_info, threads, 8);
AT(diffusion_engine_info, reserved, 12);
AT(diffusion_engine_info, memory_used, 16);
AT(diffusion_engine_info, memory_peak, 24);
AT(diffusion_engine_info, memory_limit, 32);
AT(diffusion_engine_info, device_name, 40);
AT(diffusion_engine_info, device_index, 48);
AT(diffusion_engine_info, precision, 52);

SIZE(diffusion_device_list_desc, 16);
AT(diffusion_device_list_desc, struct_size, 0);
AT(diffusion_device_list_desc, reserved, 4);
AT(diffusion_device_list_desc, cuda_library_directory, 8);

SIZE(diffusion_device_info, 32);
AT(diffusion_device_info, struct_size, 0);
AT(diffusion_device_info, device, 4);
AT(diffusion_device_info, device_index, 8);
AT(diffusion_device_info, compute_capability, 12);
AT(diffusion_device_info, memory, 16);
AT(diffusion_device_info, name, 24);

SIZE(diffusion_model_desc, 16);
AT(diffusion_model_desc, struct_size, 0);
AT(diffusion_model_desc, weights, 4);
AT(diffusion_model_desc, variant, 8);

SIZE(diffusion_memory_query, 24);
AT(diffusion_memory_query, struct_size, 0);
AT(diffusion_memory_query, width, 4);
AT(diffusion_memory_query, height, 8);
AT(diffusion_memory_query, batch_size, 12);
AT(diffusion_memory_query, guided, 16);
AT(diffusion_memory_query, steps, 20);

SIZE(diffusion_memory_prediction, 40);
AT(diffusion_memory_prediction, struct_size, 0);
AT(diffusion_memory_prediction, fits, 4);
AT(diffusion_memory_prediction, weights, 8);
AT(diffusion_memory_prediction, activations, 16);
AT(diffusion_memory_prediction, total, 24);
AT(diffusion_memory_prediction, limit, 32);

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

SIZE(diffusion_schedule_desc, 96);
AT(diffusion_schedule_desc, struct_size, 0);
AT(diffusion_schedule_desc, beta_schedule, 4);
AT(diffusion_schedule_desc, prediction_type, 8);
AT(diffusion_schedule_desc, timestep_spacing, 12);
AT(diffusion_schedule_desc, num_train_timesteps, 16);
AT(diffusion_schedule_desc, steps_offset, 20);
AT(diffusion_schedule_desc, rescale_betas_zero_snr, 24);
AT(diffusion_schedule_desc, set_alpha_to_first, 28);
AT(diffusion_schedule_desc, beta_start, 32);
AT(diffusion_schedule_desc, beta_end, 40);
AT(diffusion_schedule_desc, shift, 48);
AT(diffusion_schedule_desc, sigma_min, 56);
AT(diffusion_schedule_desc, sigma_max, 64);
AT(diffusion_schedule_desc, sigma_data, 72);
AT(diffusion_schedule_desc, trained_betas, 80);
AT(diffusion_schedule_desc, trained_beta_count, 88);

SIZE(diffusion_schedule_info, 16);
AT(diffusion_schedule_info, struct_size, 0);
AT(diffusion_schedule_info, num_train_timesteps, 4);
AT(diffusion_schedule_info, prediction_type, 8);
AT(diffusion_schedule_info, default_sampler, 12);

SIZE(diffusion_sampler_desc, 176);
AT(diffusion_sampler_desc, struct_size, 0);
AT(diffusion_sampler_desc, sampler, 4);
AT(diffusion_sampler_desc, steps, 8);
AT(diffusion_sampler_desc, sigma_schedule, 12);
AT(diffusion_sampler_desc, timestep_spacing, 16);
AT(diffusion_sampler_desc, profile, 20);
AT(diffusion_sampler_desc, noise, 24);
AT(diffusion_sampler_desc, clip, 28);
AT(diffusion_sampler_desc, flags, 32);
AT(diffusion_sampler_desc, solver_order, 36);
AT(diffusion_sampler_desc, images, 40);
AT(diffusion_sampler_desc, values, 44);
AT(diffusion_sampler_desc, eta, 48);
AT(diffusion_sampler_desc, s_churn, 56);
AT(diffusion_sampler_desc, s_tmin, 64);
AT(diffusion_sampler_desc, s_tmax, 72);
AT(diffusion_sampler_desc, s_noise, 80);
AT(diffusion_sampler_desc, strength, 88);
AT(diffusion_sampler_desc, clip_range, 96);
AT(diffusion_sampler_desc, clip_ratio, 104);
AT(diffusion_sampler_desc, seed, 112);
AT(diffusion_sampler_desc, seeds, 120);
AT(diffusion_sampler_desc, sigmas, 128);
AT(diffusion_sampler_desc, sigma_count, 136);
AT(diffusion_sampler_desc, timesteps, 144);
AT(diffusion_sampler_desc, timestep_count, 152);
AT(diffusion_sampler_desc, noise_callback, 160);
AT(diffusion_sampler_desc, noise_user_data, 168);

SIZE(diffusion_sampler_plan, 40);
AT(diffusion_sampler_plan, struct_size, 0);
AT(diffusion_sampler_plan, sampler, 4);
AT(diffusion_sampler_plan, steps, 8);
AT(diffusion_sampler_plan, evaluations, 12);
AT(diffusion_sampler_plan, images, 16);
AT(diffusion_sampler_plan, values, 20);
AT(diffusion_sampler_plan, prediction_values, 24);
AT(diffusion_sampler_plan, needs_unconditional, 28);
AT(diffusion_sampler_plan, init_noise_sigma, 32);

SIZE(diffusion_question, 72);
AT(diffusion_question, struct_size, 0);
AT(diffusion_question, step, 4);
AT(diffusion_question, images, 8);
AT(diffusion_question, values, 12);
AT(diffusion_question, prediction_values, 16);
AT(diffusion_question, needs_unconditional, 20);
AT(diffusion_question, timestep, 24);
AT(diffusion_question, alpha, 32);
AT(diffusion_question, sigma, 40);
AT(diffusion_question, x0_from_input, 48);
AT(diffusion_question, x0_from_prediction, 56);
AT(diffusion_question, input, 64);

SIZE(diffusion_sampler_info, 48);
AT(diffusion_sampler_info, struct_size, 0);
AT(diffusion_sampler_info, sampler, 4);
AT(diffusion_sampler_info, order, 8);
AT(diffusion_sampler_info, evaluations, 12);
AT(diffusion_sampler_info, stochastic, 16);
AT(diffusion_sampler_info, reserved, 20);
AT(diffusion_sampler_info, name, 24);
AT(diffusion_sampler_info, source, 32);
AT(diffusion_sampler_info, summary, 40);

SIZE(diffusion_sigma_schedule_info, 32);
AT(diffusion_sigma_schedule_info, struct_size, 0);
AT(diffusion_sigma_schedule_info, sigma_schedule, 4);
AT(diffusion_sigma_schedule_info, name, 8);
AT(diffusion_sigma_schedule_info, source, 16);
AT(diffusion_sigma_schedule_info, summary, 24);

SIZE(diffusion_guidance_desc, 120);
AT(diffusion_guidance_desc, struct_size, 0);
AT(diffusion_guidance_desc, method, 4);
AT(diffusion_guidance_desc, steps, 8);
AT(diffusion_guidance_desc, images, 12);
AT(diffusion_guidance_desc, values, 16);
AT(diffusion_guidance_desc, needs_unconditional, 20);
AT(diffusion_guidance_desc, flags, 24);
AT(diffusion_guidance_desc, zero_init_steps, 28);
AT(diffusion_guidance_desc, guidance_scale, 32);
AT(diffusion_guidance_desc, guidance_rescale, 40);
AT(diffusion_guidance_desc, guidance_start, 48);
AT(diffusion_guidance_desc, guidance_stop, 56);
AT(diffusion_guidance_desc, apg_eta, 64);
AT(diffusion_guidance_desc, apg_norm_threshold, 72);
AT(diffusion_guidance_desc, apg_momentum, 80);
AT(diffusion_guidance_desc, pag_scale, 88);
AT(diffusion_guidance_desc, image_guidance_scale, 96);
AT(diffusion_guidance_desc, guidance_schedule, 104);
AT(diffusion_guidance_desc, guidance_schedule_count, 112);

SIZE(diffusion_predictions, 80);
AT(diffusion_predictions, struct_size, 0);
AT(diffusion_predictions, step, 4);
AT(diffusion_predictions, timestep, 8);
AT(diffusion_predictions, count, 16);
AT(diffusion_predictions, conditional, 24);
AT(diffusion_predictions, unconditional, 32);
AT(diffusion_predictions, image, 40);
AT(diffusion_predictions, perturbed, 48);
AT(diffusion_predictions, input, 56);
AT(diffusion_predictions, x0_from_input, 64);
AT(diffusion_predictions, x0_from_prediction, 72);

//! The option table, as C sees it.

use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{Struct, c_string, guard, guard_or, opt_str, out_struct};
use crate::api::OptionId;
use crate::api::options::{Kind, OPTIONS};
use crate::util::error::error;

/// An option of a request: a value of ::diffusion_option_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_option = i32;

/// Values of ::diffusion_option. In brackets: type, default, range. diffusion_option_get_info() tells the same.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_option_enum {
    /// What the image shows. [string, ""]
    DIFFUSION_OPTION_PROMPT = 1,
    /// What guidance steers away from; unset is not the same as empty for some SDXL models. [string, unset]
    DIFFUSION_OPTION_NEGATIVE_PROMPT = 2,
    /// Image width in pixels, a multiple of size_multiple; 0 = that of the option image, else the model's
    /// own. [int, 0, 0..8192]
    DIFFUSION_OPTION_WIDTH = 3,
    /// Image height in pixels, a multiple of size_multiple; 0 = that of the option image, else the model's
    /// own. [int, 0, 0..8192]
    DIFFUSION_OPTION_HEIGHT = 4,
    /// Denoising steps; 0 = decode the given latents as they are. [int, 20, 0..1000]
    DIFFUSION_OPTION_STEPS = 5,
    /// Strength of classifier-free guidance; 1 and below turn it off. [float, 7.5, 0..100]
    DIFFUSION_OPTION_GUIDANCE_SCALE = 6,
    /// Seed of the noise, any 64 bits; image i of a batch uses seed + i (but see variation_seed and profile).
    /// [int, 0, any]
    ///
    /// Where variation_strength is above 0, all images of a batch have the first noise of seed; in the
    /// profile ::DIFFUSION_PROFILE_COMFYUI, each has its part of one noise for the whole batch.
    DIFFUSION_OPTION_SEED = 7,
    /// Images to make at once. [int, 1, 1..64]
    DIFFUSION_OPTION_BATCH_SIZE = 8,
    /// How noise becomes an image; auto = the model's default_sampler. [::diffusion_sampler_id, auto]
    DIFFUSION_OPTION_SAMPLER = 9,
    /// Which training timesteps the sampler visits; auto = the model's own. [::diffusion_timestep_spacing,
    /// auto]
    DIFFUSION_OPTION_TIMESTEP_SPACING = 10,
    /// How much fresh noise a step adds: 0 = none, 1 = as much as ddpm; negative = the sampler's own. [float,
    /// -1, -1..1]
    DIFFUSION_OPTION_ETA = 11,
    /// Noise generator: philox equals torch's CUDA randn, mt19937 its CPU randn; auto = the profile's.
    /// [::diffusion_noise, auto]
    DIFFUSION_OPTION_NOISE = 12,
    /// Start noise of unit variance, batch x channels x height/f x width/f, in place of noise from the seed.
    /// [floats, unset]
    ///
    /// NCHW as in diffusers: the latents of image 0 first, f the model's reduction (8 for all Stable
    /// Diffusion models). With 0 steps these are the latents to decode, as diffusion_job_copy_latents() gives
    /// them.
    DIFFUSION_OPTION_LATENTS = 13,
    /// What to make: auto = image; latents skips the decoder. [::diffusion_output, auto]
    DIFFUSION_OPTION_OUTPUT = 14,
    /// How the noise levels are laid out; auto = the model's own, else by timestep_spacing.
    /// [::diffusion_sigma_schedule, auto]
    DIFFUSION_OPTION_SIGMA_SCHEDULE = 15,
    /// Noise levels of your own, falling, one more than steps: the last (often 0) is where the last step
    /// ends. [floats, unset]
    ///
    /// In the sampler's own terms: noise-to-signal ratios, or a flow model's t from 1 to 0. The number of
    /// values decides the number of steps, whatever ::DIFFUSION_OPTION_STEPS says (unless that is 0).
    DIFFUSION_OPTION_SIGMAS = 16,
    /// Training timesteps of your own, falling, one a step, in place of sigmas or a schedule. [floats, unset]
    ///
    /// Their number decides the number of steps. The last step ends without noise.
    DIFFUSION_OPTION_TIMESTEPS = 17,
    /// Noise put back before each step and taken away in it, over all steps; for euler, heun and dpm2.
    /// [float, 0, 0..1000]
    DIFFUSION_OPTION_S_CHURN = 18,
    /// The least noise level at which s_churn acts. [float, 0, 0..1000000]
    DIFFUSION_OPTION_S_TMIN = 19,
    /// The greatest noise level at which s_churn acts; 0 = any. [float, 0, 0..1000000]
    DIFFUSION_OPTION_S_TMAX = 20,
    /// What all fresh noise is multiplied by. [float, 1, 0..10]
    DIFFUSION_OPTION_S_NOISE = 21,
    /// Whose numbers to give where programs differ; auto = diffusers. [::diffusion_profile, auto]
    ///
    /// It decides the scale of the first noise, the steps of image-to-image, how sigma schedules end, and
    /// what the seeds of a batch are.
    DIFFUSION_OPTION_PROFILE = 22,
    /// The picture that image-to-image and inpainting start from, width x height pixels. [image, unset]
    ///
    /// Each image of a batch starts from it. Its size is the request's where width and height are 0, and must
    /// be equal to it elsewhere.
    DIFFUSION_OPTION_IMAGE = 23,
    /// What to paint anew: white is painted, black keeps the pixels of the option image to the bit. [image,
    /// unset]
    ///
    /// As large as ::DIFFUSION_OPTION_IMAGE, which it needs. A pixel is white if the mean of its red, green
    /// and blue is at least a half. Works with any text-to-image model: after each step the latents of what
    /// is black are put back, noised to that step, and at the end its pixels are, always. The latents go with
    /// the upper left pixel of those they stand for. The final latents are not put together so.
    DIFFUSION_OPTION_MASK = 24,
    /// How much of the way to go from the option image, above 0; 1 = all steps. [float, 0.8, 0..1]
    ///
    /// Below 1 the first steps are left out, and those that remain start from the noised picture. With
    /// ::DIFFUSION_OPTION_MASK, 1 starts from pure noise.
    DIFFUSION_OPTION_STRENGTH = 25,
    /// Seed to vary the picture of seed towards, any 64 bits; image i of a batch uses variation_seed + i.
    /// [int, 0, any]
    ///
    /// A1111's variation seed: the first noise is interpolated spherically between the two.
    DIFFUSION_OPTION_VARIATION_SEED = 26,
    /// How far to go from seed to variation_seed: 0 = not at all, 1 = all the way. [float, 0, 0..1]
    DIFFUSION_OPTION_VARIATION_STRENGTH = 27,
    /// Added to the seeds of the noise that steps add; 0 = it goes on where the first noise ends. [int, 0,
    /// any]
    ///
    /// A1111's ENSD, which for many shared settings is 31337.
    DIFFUSION_OPTION_ETA_NOISE_SEED_DELTA = 28,
    /// Quantile of each prediction's values that becomes the limit of all; 0 = as the model's config says.
    /// [float, 0, 0..1]
    DIFFUSION_OPTION_DYNAMIC_THRESHOLDING_RATIO = 29,
    /// The most that the limit of dynamic_thresholding_ratio may be. [float, 1, 1..1000000]
    DIFFUSION_OPTION_DYNAMIC_THRESHOLDING_MAX = 30,
    /// How the predictions with and without the prompt combine; auto = cfg. [::diffusion_guidance_method,
    /// auto]
    DIFFUSION_OPTION_GUIDANCE_METHOD = 31,
    /// A guidance scale for each step that is taken, in place of guidance_scale. [floats, unset]
    DIFFUSION_OPTION_GUIDANCE_SCHEDULE = 32,
    /// How far guided predictions are brought back to the contrast of unguided ones. [float, 0, 0..1]
    DIFFUSION_OPTION_GUIDANCE_RESCALE = 33,
    /// The part of the steps after which guidance begins. [float, 0, 0..1]
    DIFFUSION_OPTION_GUIDANCE_START = 34,
    /// The part of the steps after which guidance ends. [float, 1, 0..1]
    DIFFUSION_OPTION_GUIDANCE_STOP = 35,
    /// Steps at the start that cfg_zero_star takes with a prediction of zero. [int, 1, 0..1000]
    DIFFUSION_OPTION_ZERO_INIT_STEPS = 36,
    /// What apg keeps of guidance along the predicted x0: 0 = nothing, 1 = all. [float, 1, 0..10]
    DIFFUSION_OPTION_APG_ETA = 37,
    /// The longest difference that apg guides by; 0 = any. [float, 15, 0..1000000]
    DIFFUSION_OPTION_APG_NORM_THRESHOLD = 38,
    /// What apg keeps of the differences of earlier steps; its paper's is negative. [float, 0, -0.99..0.99]
    DIFFUSION_OPTION_APG_MOMENTUM = 39,
    /// Strength of guidance away from a perturbed network; 0 turns it off. [float, 0, 0..100]
    DIFFUSION_OPTION_PAG_SCALE = 40,
    /// Blocks that pag_scale perturbs, such as mid_block,down_blocks.1,up_blocks.0; empty = mid_block.
    /// [string, ""]
    DIFFUSION_OPTION_PAG_APPLIED_LAYERS = 41,
    /// What those blocks lose: what attention sees, or all their layers; auto = identity_attention.
    /// [::diffusion_perturbation, auto]
    DIFFUSION_OPTION_PERTURBATION = 42,
}

/// How noise becomes an image: a value of ::diffusion_sampler_id_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_sampler_id = i32;

/// Values of ::diffusion_sampler_id.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_sampler_id_enum {
    /// The one of the model's scheduler_config.json.
    DIFFUSION_SAMPLER_AUTO = 0,
    /// The original; needs hundreds of steps. Ho et al. 2020, arXiv:2006.11239, algorithm 2.
    DIFFUSION_SAMPLER_DDPM = 1,
    /// The plain deterministic one; eta adds noise. Song et al. 2020, arXiv:2010.02502, equation 12.
    DIFFUSION_SAMPLER_DDIM = 2,
    /// Simple and robust. Karras et al. 2022, arXiv:2206.00364, algorithm 2 without its correction.
    DIFFUSION_SAMPLER_EULER = 3,
    /// Varied pictures that never settle as steps grow. k-diffusion sample_euler_ancestral; for flows
    /// diffusers LTXEulerAncestralRFScheduler.
    DIFFUSION_SAMPLER_EULER_ANCESTRAL = 4,
    /// Guidance scales of 0 to 1 without oversaturation. Chung et al. 2024, arXiv:2406.08070, algorithm 2.
    DIFFUSION_SAMPLER_EULER_CFG_PP = 5,
    /// Precise; twice the work of a step. Karras et al. 2022, arXiv:2206.00364, algorithm 2.
    DIFFUSION_SAMPLER_HEUN = 6,
    /// As heun, and mostly a little more precise. k-diffusion sample_dpm_2: Karras et al. 2022, algorithm 2,
    /// with DPM-Solver-2's midpoint, arXiv:2206.00927.
    DIFFUSION_SAMPLER_DPM2 = 7,
    /// As dpm2, with fresh noise. k-diffusion sample_dpm_2_ancestral.
    DIFFUSION_SAMPLER_DPM2_ANCESTRAL = 8,
    /// An older multistep method, cheap and smooth. Adams-Bashforth for uneven steps of sigma; k-diffusion
    /// sample_lms.
    DIFFUSION_SAMPLER_LMS = 9,
    /// Runge-Kutta steps first, then multistep; four evaluations in each of the first three steps. Liu et al.
    /// 2022, arXiv:2202.09778, algorithm 2.
    DIFFUSION_SAMPLER_PNDM = 10,
    /// Stable Diffusion 1's first default. Liu et al. 2022, arXiv:2202.09778, without Runge-Kutta steps
    /// (latent diffusion).
    DIFFUSION_SAMPLER_PLMS = 11,
    /// Detailed and varied; twice the work of a step. Lu et al. 2022, arXiv:2211.01095, algorithm 1;
    /// k-diffusion.
    DIFFUSION_SAMPLER_DPMPP_2S_ANCESTRAL = 12,
    /// The usual choice for 15 to 30 steps. Lu et al. 2022, arXiv:2211.01095, algorithm 2.
    DIFFUSION_SAMPLER_DPMPP_2M = 13,
    /// Detailed pictures in 20 to 40 steps. Lu et al. 2022, arXiv:2211.01095; k-diffusion
    /// sample_dpmpp_2m_sde, midpoint.
    DIFFUSION_SAMPLER_DPMPP_2M_SDE = 14,
    /// As dpmpp_2m_sde, a little smoother. k-diffusion sample_dpmpp_2m_sde, heun.
    DIFFUSION_SAMPLER_DPMPP_2M_SDE_HEUN = 15,
    /// Good with few steps; twice the work of a step. Lu et al. 2022, arXiv:2211.01095; k-diffusion
    /// sample_dpmpp_sde.
    DIFFUSION_SAMPLER_DPMPP_SDE = 16,
    /// For many steps. k-diffusion sample_dpmpp_3m_sde.
    DIFFUSION_SAMPLER_DPMPP_3M_SDE = 17,
    /// As dpmpp_2m, but steps come in groups. Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2, for the
    /// data prediction of arXiv:2211.01095.
    DIFFUSION_SAMPLER_DPM_SOLVER_SINGLESTEP = 18,
    /// Predictor and corrector; good below 10 steps. Zhao et al. 2023, arXiv:2302.04867, B(h) = h.
    DIFFUSION_SAMPLER_UNIPC_BH1 = 19,
    /// Predictor and corrector; good for guided pictures in few steps. Zhao et al. 2023, arXiv:2302.04867,
    /// B(h) = exp(h) - 1.
    DIFFUSION_SAMPLER_UNIPC_BH2 = 20,
    /// Exponential integrator; good with few steps. Zhang & Chen 2022, arXiv:2204.13902, log-rho.
    DIFFUSION_SAMPLER_DEIS = 21,
    /// Multistep without PNDM's warm-up. Zhang & Chen 2022, arXiv:2204.13902, iPNDM; diffusers
    /// IPNDMScheduler.step.
    DIFFUSION_SAMPLER_IPNDM = 22,
    /// For models distilled by consistency: 1 to 8 steps. Luo et al. 2023, arXiv:2310.04378, algorithm 3.
    DIFFUSION_SAMPLER_LCM = 23,
    /// For models distilled along trajectories; eta is its gamma. Zheng et al. 2024, arXiv:2402.19159,
    /// algorithm 4.
    DIFFUSION_SAMPLER_TCD = 24,
    /// Stochastic Adams predictor and corrector. Xue et al. 2023, arXiv:2309.05019, algorithm 1.
    DIFFUSION_SAMPLER_SA_SOLVER = 25,
    /// Heun that, from 20 steps on, goes back up and down again to shed errors. Xu et al. 2023,
    /// arXiv:2306.14878, with the restarts of A1111.
    DIFFUSION_SAMPLER_RESTART = 26,
    /// Extended reverse-time SDE; detailed with few steps. Cui et al. 2023, arXiv:2309.06169.
    DIFFUSION_SAMPLER_ER_SDE = 27,
    /// Refined exponential solver; a sharper dpmpp_2m. Zhang et al. 2023, arXiv:2308.02157.
    DIFFUSION_SAMPLER_RES_MULTISTEP = 28,
    /// Euler that leans on the last step's direction. Permenter & Yuan 2023, arXiv:2306.04848, gradient
    /// estimation; ComfyUI gradient_estimation.
    DIFFUSION_SAMPLER_GRADIENT_ESTIMATION = 29,
}

/// How noise levels are laid out: a value of ::diffusion_sigma_schedule_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_sigma_schedule = i32;

/// Values of ::diffusion_sigma_schedule.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_sigma_schedule_enum {
    /// The one of the model's scheduler_config.json, else by ::DIFFUSION_OPTION_TIMESTEP_SPACING.
    DIFFUSION_SIGMA_SCHEDULE_AUTO = 0,
    /// Even in timesteps: what models are trained on; other programs' normal and uniform. k-diffusion
    /// DiscreteSchedule.get_sigmas; diffusers timestep_spacing.
    DIFFUSION_SIGMA_SCHEDULE_DISCRETE = 1,
    /// Even in timesteps, whole ones of the model's table, without its least noisy. ComfyUI simple_scheduler.
    DIFFUSION_SIGMA_SCHEDULE_SIMPLE = 2,
    /// Even in timesteps, one more than the steps, without its least noisy; for distilled models. Stability
    /// generative-models; ComfyUI normal_scheduler, sgm.
    DIFFUSION_SIGMA_SCHEDULE_SGM_UNIFORM = 3,
    /// Many steps at little noise; the usual choice for dpmpp samplers in 15 to 30 steps. Karras et al. 2022,
    /// arXiv:2206.00364, equation 5 with rho 7.
    DIFFUSION_SIGMA_SCHEDULE_KARRAS = 4,
    /// Even in the logarithm of the noise; goes with the SDE samplers. k-diffusion get_sigmas_exponential.
    DIFFUSION_SIGMA_SCHEDULE_EXPONENTIAL = 5,
    /// At rho 1 the same as exponential, under the name other programs have for it. k-diffusion
    /// get_sigmas_polyexponential with rho 1.
    DIFFUSION_SIGMA_SCHEDULE_POLYEXPONENTIAL = 6,
    /// Many steps at both ends, few in the middle. Lee et al. 2024, arXiv:2407.12173, alpha and beta 0.6.
    DIFFUSION_SIGMA_SCHEDULE_BETA = 7,
    /// Even in the arc tangent of the noise: optimal if the data were one Gaussian. Sabour et al. 2024,
    /// arXiv:2404.14507, theorem 3.1.
    DIFFUSION_SIGMA_SCHEDULE_KL_OPTIMAL = 8,
    /// Found by optimisation for Stable Diffusion 1 in 10 steps, other counts in between. Sabour et al. 2024,
    /// arXiv:2404.14507, Stable Diffusion 1.5's table.
    DIFFUSION_SIGMA_SCHEDULE_ALIGN_YOUR_STEPS = 9,
    /// Found by optimisation for SDXL in 10 steps, other counts in between. Sabour et al. 2024,
    /// arXiv:2404.14507, SDXL's table.
    DIFFUSION_SIGMA_SCHEDULE_ALIGN_YOUR_STEPS_XL = 10,
    /// Whole strides of timesteps from the second; the count of steps may come out a little higher. Song et
    /// al. 2020, arXiv:2010.02502, appendix D.2; ComfyUI ddim_scheduler.
    DIFFUSION_SIGMA_SCHEDULE_DDIM_UNIFORM = 11,
    /// Small even steps at the most noise, then ever larger ones; for flow models. Genmo Mochi 1; ComfyUI
    /// linear_quadratic_schedule.
    DIFFUSION_SIGMA_SCHEDULE_LINEAR_QUADRATIC = 12,
    /// The timesteps that consistency models were distilled at. Luo et al. 2023, arXiv:2310.04378, section
    /// 4.3; diffusers LCMScheduler.
    DIFFUSION_SIGMA_SCHEDULE_LCM = 13,
    /// Counts down from the last timestep, as models distilled adversarially want it: 1 to 4 steps. Sauer et
    /// al. 2023, arXiv:2311.17042; ComfyUI SDTurboScheduler.
    DIFFUSION_SIGMA_SCHEDULE_TURBO = 14,
}

/// Whose numbers to give where programs use one name for different arithmetic: a value of ::diffusion_profile_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_profile = i32;

/// Values of ::diffusion_profile.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_profile_enum {
    /// ::DIFFUSION_PROFILE_DIFFUSERS
    DIFFUSION_PROFILE_AUTO = 0,
    /// Hugging Face diffusers, with a generator for each image.
    DIFFUSION_PROFILE_DIFFUSERS = 1,
    /// AUTOMATIC1111's Stable Diffusion web UI.
    DIFFUSION_PROFILE_A1111 = 2,
    /// ComfyUI. A batch's first noise is drawn at once from one stream of the Mersenne Twister, so that an image
    /// depends on its place in the batch; the noise of steps comes from seed + 1 + i for image i.
    DIFFUSION_PROFILE_COMFYUI = 3,
}

/// Which training timesteps a sampler visits: a value of ::diffusion_timestep_spacing_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_timestep_spacing = i32;

/// Values of ::diffusion_timestep_spacing (Lin et al. 2023, table 2).
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_timestep_spacing_enum {
    /// The one of the model's scheduler_config.json.
    DIFFUSION_TIMESTEP_SPACING_AUTO = 0,
    /// Even steps from the first timestep.
    DIFFUSION_TIMESTEP_SPACING_LEADING = 1,
    /// Even steps to the last timestep.
    DIFFUSION_TIMESTEP_SPACING_TRAILING = 2,
    /// Even steps from the first to the last timestep.
    DIFFUSION_TIMESTEP_SPACING_LINSPACE = 3,
}

/// How the predictions with and without the prompt combine: a value of ::diffusion_guidance_method_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_guidance_method = i32;

/// Values of ::diffusion_guidance_method.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_guidance_method_enum {
    /// ::DIFFUSION_GUIDANCE_METHOD_CFG
    DIFFUSION_GUIDANCE_METHOD_AUTO = 0,
    /// Classifier-free guidance (Ho & Salimans 2022).
    DIFFUSION_GUIDANCE_METHOD_CFG = 1,
    /// CFG-Zero* (Fan et al. 2025), for flow models.
    DIFFUSION_GUIDANCE_METHOD_CFG_ZERO_STAR = 2,
    /// Adaptive projected guidance (Sadat et al. 2024): high scales without oversaturation.
    DIFFUSION_GUIDANCE_METHOD_APG = 3,
}

/// What a perturbed network loses: a value of ::diffusion_perturbation_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_perturbation = i32;

/// Values of ::diffusion_perturbation.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_perturbation_enum {
    /// ::DIFFUSION_PERTURBATION_IDENTITY_ATTENTION
    DIFFUSION_PERTURBATION_AUTO = 0,
    /// Self-attention sees only each place itself: perturbed-attention guidance (Ahn et al. 2024).
    DIFFUSION_PERTURBATION_IDENTITY_ATTENTION = 1,
    /// The transformer layers are left out: skip-layer guidance.
    DIFFUSION_PERTURBATION_SKIP_LAYER = 2,
}

/// Where noise comes from: a value of ::diffusion_noise_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_noise = i32;

/// Values of ::diffusion_noise.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_noise_enum {
    /// ::DIFFUSION_NOISE_PHILOX, and ::DIFFUSION_NOISE_MT19937 in the profile ::DIFFUSION_PROFILE_COMFYUI.
    DIFFUSION_NOISE_AUTO = 0,
    /// Philox 4x32-10: equal to torch.randn on CUDA, for an image of at most as many values as torch's GPU can run
    /// threads at once (its multiprocessors times the threads of each: 43008 for 28 of 1536).
    DIFFUSION_NOISE_PHILOX = 1,
    /// Mersenne Twister: equal to torch.randn on the CPU.
    DIFFUSION_NOISE_MT19937 = 2,
}

/// What a job makes: a value of ::diffusion_output_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_output = i32;

/// Values of ::diffusion_output.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_output_enum {
    /// ::DIFFUSION_OUTPUT_IMAGE
    DIFFUSION_OUTPUT_AUTO = 0,
    /// Images, and the latents they were decoded from.
    DIFFUSION_OUTPUT_IMAGE = 1,
    /// Latents only: the decoder does not run.
    DIFFUSION_OUTPUT_LATENTS = 2,
}

/// What values an option takes: a value of ::diffusion_option_type_enum.
/// \since 0.1.0
/// \ingroup requests
pub type diffusion_option_type = i32;

/// Values of ::diffusion_option_type.
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_option_type_enum {
    /// UTF-8 text: diffusion_request_set_string().
    DIFFUSION_OPTION_TYPE_STRING = 1,
    /// A whole number: diffusion_request_set_int().
    DIFFUSION_OPTION_TYPE_INT = 2,
    /// A number: diffusion_request_set_float().
    DIFFUSION_OPTION_TYPE_FLOAT = 3,
    /// One of some choices: diffusion_request_set_int() by number, diffusion_request_set_string() by name.
    DIFFUSION_OPTION_TYPE_ENUM = 4,
    /// A list of numbers: diffusion_request_set_floats().
    DIFFUSION_OPTION_TYPE_FLOATS = 5,
    /// A picture: diffusion_request_set_image().
    DIFFUSION_OPTION_TYPE_IMAGE = 6,
}

/// What an option is. The strings are static: valid for ever.
/// \since 0.1.0
/// \ingroup requests
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_option_info {
    /// sizeof(diffusion_option_info), set by the caller
    pub struct_size: u32,
    /// The option.
    pub option: diffusion_option,
    /// What values it takes.
    pub r#type: diffusion_option_type,
    /// For ::DIFFUSION_OPTION_TYPE_ENUM: the choices are 0 to choice_count - 1. Else 0.
    pub choice_count: u32,
    /// The least value of a number or enum; else 0. For ::DIFFUSION_OPTION_SEED the nearest double.
    pub min: f64,
    /// The greatest value of a number or enum; else 0. For ::DIFFUSION_OPTION_SEED the nearest double.
    pub max: f64,
    /// The value of a number or enum that is not set; else 0.
    pub default_value: f64,
    /// The name bindings and tools use, such as "guidance_scale".
    pub name: *const c_char,
    /// One line for people.
    pub summary: *const c_char,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_option_info {}

/// How many options there are.
///
/// \returns The number of options; diffusion_option_get_info() takes 0 to one less.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_option_count() -> usize {
    OPTIONS.len()
}

/// Tells what an option is, so that bindings and user interfaces need no list of their own.
///
/// \param index 0 to diffusion_option_count() - 1. Not the option's number.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_option_get_info(
    index: usize,
    info: *mut diffusion_option_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let row = OPTIONS.get(index).zip(texts().get(index));
            let (spec, texts) = row.ok_or_else(|| {
                error!(InvalidArgument, "index: {index} is not less than the {} options", OPTIONS.len())
            })?;
            let (kind, choices, [min, max, default_value]) = numbers(spec.kind);
            let facts = diffusion_option_info {
                struct_size: 0,
                option: spec.id as diffusion_option,
                r#type: kind as diffusion_option_type,
                choice_count: choices.len() as u32,
                min,
                max,
                default_value,
                name: texts.name.as_ptr(),
                summary: texts.summary.as_ptr(),
            };
            out_struct(info, "info", facts)
        })
    }
}

/// Finds an option by name.
///
/// \param name Such as "guidance_scale".
/// \returns The option; 0 if there is none of that name, and for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_option_find(name: *const c_char) -> diffusion_option {
    guard_or(0, || {
        // SAFETY: NULL or a string that lives during the call.
        let name = unsafe { opt_str(name, "name") }.ok().flatten();
        name.and_then(OptionId::from_name).map_or(0, |id| id as diffusion_option)
    })
}

/// The name of an enum option's choice.
///
/// \param option The option.
/// \param value The choice, from 0.
/// \returns Such as "euler"; NULL if there is no such option or choice. Static: valid for ever.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup requests
#[unsafe(no_mangle)]
pub extern "C" fn diffusion_option_choice(option: diffusion_option, value: i32) -> *const c_char {
    guard_or(ptr::null(), || {
        let index = OPTIONS.iter().position(|spec| spec.id as diffusion_option == option);
        let choices = index.and_then(|index| texts().get(index)).map(|texts| &texts.choices);
        let choice = choices.zip(usize::try_from(value).ok()).and_then(|(choices, value)| choices.get(value));
        choice.map_or(ptr::null(), |choice| choice.as_ptr())
    })
}

/// The table's texts with a NUL at the end.
struct Texts {
    name: CString,
    summary: CString,
    choices: Vec<CString>,
}

fn texts() -> &'static [Texts] {
    static TEXTS: OnceLock<Vec<Texts>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let row = |spec: &crate::api::OptionSpec| Texts {
            name: c_string(spec.name),
            summary: c_string(spec.summary),
            choices: numbers(spec.kind).1.iter().map(|choice| c_string(choice)).collect(),
        };
        OPTIONS.iter().map(row).collect()
    })
}

/// A kind in C's terms: type, choices, and `[min, max, default]`.
fn numbers(kind: Kind) -> (diffusion_option_type_enum, &'static [&'static str], [f64; 3]) {
    use diffusion_option_type_enum::*;
    match kind {
        Kind::String => (DIFFUSION_OPTION_TYPE_STRING, &[], [0.0; 3]),
        Kind::Int { default, min, max } => {
            (DIFFUSION_OPTION_TYPE_INT, &[], [min as f64, max as f64, default as f64])
        }
        Kind::Float { default, min, max } => (DIFFUSION_OPTION_TYPE_FLOAT, &[], [min, max, default]),
        Kind::Enum(choices) => (DIFFUSION_OPTION_TYPE_ENUM, choices, [0.0, (choices.len() - 1) as f64, 0.0]),
        Kind::Floats => (DIFFUSION_OPTION_TYPE_FLOATS, &[], [0.0; 3]),
        Kind::Image => (DIFFUSION_OPTION_TYPE_IMAGE, &[], [0.0; 3]),
    }
}

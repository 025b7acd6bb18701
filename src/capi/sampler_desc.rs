//! What a host says of a sampler that it wants.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::ffi::{Struct, UserData, opt_slice};
use super::option::{
    diffusion_noise, diffusion_profile, diffusion_profile_enum, diffusion_sampler_id,
    diffusion_sigma_schedule, diffusion_timestep_spacing,
};
use super::schedule::spacing;
use crate::api::sampling::{Batch, Clip, Noise, NoiseFn, Options, Profile, SAMPLERS, SigmaSchedule};
use crate::util::error::{Result, bail, error};

/// How predictions of x0 are clipped: a value of ::diffusion_clip_enum.
/// \since 0.1.0
/// \ingroup samplers
pub type diffusion_clip = i32;

/// Values of ::diffusion_clip.
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_clip_enum {
    /// As the schedule's config says.
    DIFFUSION_CLIP_AUTO = 0,
    /// Not at all.
    DIFFUSION_CLIP_NONE = 1,
    /// To plus or minus clip_range.
    DIFFUSION_CLIP_RANGE = 2,
    /// Dynamic thresholding: to the clip_ratio quantile of an image's values, kept in 1..clip_range, by which they are
    /// then divided (Saharia et al. 2022, section 2.3).
    DIFFUSION_CLIP_DYNAMIC = 3,
}

/// Flags of ::diffusion_sampler_desc, to be combined with |.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_sampler_flags_enum {
    /// eta is 0, where that is not the sampler's own.
    DIFFUSION_SAMPLER_ETA_ZERO = 1,
    /// s_noise is 0 rather than 1.
    DIFFUSION_SAMPLER_S_NOISE_ZERO = 2,
}

/// Gives a sampler fresh noise in place of its own.
///
/// It is called from the thread that runs the sampler, in the midst of its call, and must return normally: no exception,
/// no longjmp. It must not use the sampler (::DIFFUSION_ERROR_BUSY), nor free it.
///
/// \param from The noise-to-signal ratio that the way of this noise begins at.
/// \param to The ratio that it ends at.
/// \param images Images of the batch.
/// \param values Values of one image.
/// \param out Receives images x values finite floats, standard normal in most uses; zeros before. Anything that is not
/// finite is ::DIFFUSION_ERROR_NUMERIC.
/// \param user_data ::diffusion_sampler_desc::noise_user_data.
/// \returns 0 to go on, anything else to stop with ::DIFFUSION_ERROR_CANCELLED. After a stop, or noise that is not
/// finite, the sampler must be started anew.
/// \since 0.1.0
/// \ingroup samplers
pub type diffusion_noise_callback = Option<
    unsafe extern "C" fn(
        from: f64,
        to: f64,
        images: u32,
        values: u32,
        out: *mut f32,
        user_data: *mut c_void,
    ) -> i32,
>;

/// How to sample. A sampler needs steps (or sigmas, or timesteps) and values; all else may be zero.
/// \since 0.1.0
/// \ingroup samplers
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_sampler_desc {
    /// sizeof(diffusion_sampler_desc)
    pub struct_size: u32,
    /// How noise becomes samples; 0 = the schedule's own.
    pub sampler: diffusion_sampler_id,
    /// Denoising steps, 1 to 65536; spaced timesteps allow no more than the schedule has. 0 = what sigmas or timesteps
    /// make.
    pub steps: u32,
    /// How the noise levels are spaced; 0 = the schedule's own.
    pub sigma_schedule: diffusion_sigma_schedule,
    /// Which training timesteps are visited; 0 = the schedule's own.
    pub timestep_spacing: diffusion_timestep_spacing,
    /// Whose numbers to give where programs differ; 0 = diffusers'.
    pub profile: diffusion_profile,
    /// Where noise comes from; 0 = ::DIFFUSION_NOISE_PHILOX, and the Mersenne Twister in ComfyUI's profile.
    pub noise: diffusion_noise,
    /// How predictions of x0 are clipped; 0 = as the schedule's config says.
    pub clip: diffusion_clip,
    /// 0, ::DIFFUSION_SAMPLER_ETA_ZERO, ::DIFFUSION_SAMPLER_S_NOISE_ZERO.
    pub flags: u32,
    /// Order of the multistep solvers that have several, 1 to 3; 0 = the schedule's own, usually 2.
    pub solver_order: u32,
    /// Images of the batch, up to 1048576; 0 = 1.
    pub images: u32,
    /// Values of one image: channels x height x width.
    pub values: u32,
    /// How much of DDPM's fresh noise is added, 0 to 1. 0 = the sampler's own: none for ddim, all for the ancestral and
    /// SDE samplers. To mean 0 there, set ::DIFFUSION_SAMPLER_ETA_ZERO.
    pub eta: f64,
    /// Churn (Karras et al. 2022, algorithm 2): how much noise is added before steps; 0 = none.
    pub s_churn: f64,
    /// The least sigma at which there is churn.
    pub s_tmin: f64,
    /// The greatest sigma at which there is churn; 0 = any.
    pub s_tmax: f64,
    /// The standard deviation of all fresh noise; 0 = 1. To mean 0, set ::DIFFUSION_SAMPLER_S_NOISE_ZERO.
    pub s_noise: f64,
    /// Image-to-image: how much of the way to go, above 0 up to 1; 0 = start from noise.
    pub strength: f64,
    /// The bound of ::DIFFUSION_CLIP_RANGE, above 0, and the greatest of ::DIFFUSION_CLIP_DYNAMIC, at least 1; 0 = 1.
    pub clip_range: f64,
    /// The quantile of ::DIFFUSION_CLIP_DYNAMIC, above 0 up to 1; 0 = 0.995.
    pub clip_ratio: f64,
    /// Seed of image 0; image i has seed + i. Not looked at if seeds are given.
    pub seed: u64,
    /// One seed an image; NULL = from seed.
    pub seeds: *const u64,
    /// Noise levels of your own, falling, one more than steps: the last is where the last step ends, usually 0. NULL =
    /// none.
    pub sigmas: *const f64,
    /// How many sigmas there are.
    pub sigma_count: usize,
    /// Timesteps of your own, falling, one a step; the last step ends without noise. NULL = none.
    pub timesteps: *const f64,
    /// How many timesteps there are.
    pub timestep_count: usize,
    /// Gives fresh noise; NULL = it goes on from the seeds' streams.
    pub noise_callback: diffusion_noise_callback,
    /// Handed to noise_callback. It must stay valid until the sampler is freed.
    pub noise_user_data: *mut c_void,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_sampler_desc {}
pub(super) unsafe fn options(desc: &diffusion_sampler_desc) -> Result<Options> {
    // SAFETY: each is NULL or has as many numbers as its count says.
    let (sigmas, timesteps) = unsafe {
        (
            opt_slice(desc.sigmas, desc.sigma_count, "sigmas")?,
            opt_slice(desc.timesteps, desc.timestep_count, "timesteps")?,
        )
    };
    let steps = match (desc.steps, sigmas, timesteps) {
        (0, Some(sigmas), _) => sigmas.len().saturating_sub(1),
        (0, None, Some(timesteps)) => timesteps.len(),
        (steps, _, _) => steps as usize,
    };
    let [eta_zero, s_noise_zero] = flags(desc)?;
    let given = |value: f64| Some(value).filter(|value| *value != 0.0);
    Ok(Options {
        sampler: numbered(desc.sampler, SAMPLERS, "sampler")?.map(|info| info.sampler),
        spacing: spacing(desc.timestep_spacing)?,
        sigma_schedule: numbered(desc.sigma_schedule, &SigmaSchedule::ALL, "sigma_schedule")?.copied(),
        sigmas: sigmas.map(<[f64]>::to_vec),
        timesteps: timesteps.map(<[f64]>::to_vec),
        eta: if eta_zero { Some(0.0) } else { given(desc.eta) },
        s_churn: desc.s_churn,
        s_tmin: desc.s_tmin,
        s_tmax: given(desc.s_tmax).unwrap_or(f64::INFINITY),
        s_noise: if s_noise_zero { 0.0 } else { given(desc.s_noise).unwrap_or(1.0) },
        profile: numbered(desc.profile, &PROFILES, "profile")?.copied().unwrap_or(Profile::Diffusers),
        strength: given(desc.strength),
        clip: clip(desc)?,
        ..Options::new(steps)
    })
}

fn flags(desc: &diffusion_sampler_desc) -> Result<[bool; 2]> {
    const ETA_ZERO: u32 = diffusion_sampler_flags_enum::DIFFUSION_SAMPLER_ETA_ZERO as u32;
    const S_NOISE_ZERO: u32 = diffusion_sampler_flags_enum::DIFFUSION_SAMPLER_S_NOISE_ZERO as u32;
    let flags = desc.flags;
    if flags & !(ETA_ZERO | S_NOISE_ZERO) != 0 {
        bail!(InvalidArgument, "flags: {flags:#x} has bits that mean nothing");
    }
    let set = [flags & ETA_ZERO != 0, flags & S_NOISE_ZERO != 0];
    for (is_zero, name, value) in [(set[0], "eta", desc.eta), (set[1], "s_noise", desc.s_noise)] {
        if is_zero && value != 0.0 {
            bail!(InvalidArgument, "{name} is {value}, but flags say that it is 0");
        }
    }
    Ok(set)
}

fn clip(desc: &diffusion_sampler_desc) -> Result<Option<Clip>> {
    let or = |value: f64, default: f64| if value == 0.0 { default } else { value };
    let range = or(desc.clip_range, 1.0);
    Ok(match desc.clip {
        0 => None,
        1 => Some(Clip::None),
        2 => Some(Clip::Range(range as f32)),
        3 => Some(Clip::Dynamic { ratio: or(desc.clip_ratio, 0.995), max: range }),
        other => bail!(InvalidArgument, "clip: there is no clipping {other}"),
    })
}

pub(super) unsafe fn batch(desc: &diffusion_sampler_desc) -> Result<Batch> {
    let images = desc.images.max(1) as usize;
    Batch::check_size(images, desc.values as usize)?;
    // SAFETY: NULL or one seed an image.
    let seeds =
        match unsafe { opt_slice(desc.seeds, if desc.seeds.is_null() { 0 } else { images }, "seeds")? } {
            Some(seeds) => seeds.to_vec(),
            None => (0..images as u64).map(|image| desc.seed.wrapping_add(image)).collect(),
        };
    let comfyui = desc.profile == diffusion_profile_enum::DIFFUSION_PROFILE_COMFYUI as diffusion_profile;
    Ok(Batch {
        images,
        values: desc.values as usize,
        noise: noise_kind(desc.noise)?.unwrap_or(if comfyui { Noise::Mt19937 } else { Noise::Philox }),
        seeds,
        fresh: noise_fn(desc.noise_callback, UserData(desc.noise_user_data)),
    })
}

fn noise_fn(callback: diffusion_noise_callback, user_data: UserData) -> Option<NoiseFn> {
    let callback = callback?;
    Some(Arc::new(move |from, to, images, out| {
        let values = (out.len() / images) as u32;
        // SAFETY: the caller promises a function that may be called with its user_data, and `out` has room.
        match unsafe { callback(from, to, images as u32, values, out.as_mut_ptr(), user_data.get()) } {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }))
}

pub(super) fn noise_kind(number: diffusion_noise) -> Result<Option<Noise>> {
    match number {
        0 => Ok(None),
        1 => Ok(Some(Noise::Philox)),
        2 => Ok(Some(Noise::Mt19937)),
        _ => bail!(InvalidArgument, "noise: there is no generator {number}"),
    }
}

/// The profiles, in the order of the enum.
const PROFILES: [Profile; 3] = [Profile::Diffusers, Profile::A1111, Profile::ComfyUi];

/// Row `number` of a table that counts from 1; 0 is `None`.
fn numbered<'a, T>(number: i32, table: &'a [T], name: &str) -> Result<Option<&'a T>> {
    let row = match usize::try_from(number) {
        Ok(0) => return Ok(None),
        Ok(number) => table.get(number - 1),
        Err(_) => None,
    };
    row.map(Some).ok_or_else(|| error!(InvalidArgument, "{name}: there is no {name} {number}"))
}

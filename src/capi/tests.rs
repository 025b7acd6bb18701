#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

//! The rules of the boundary. What lies behind it is tested in `api`; whole C programs run in `tests/capi`.

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::{offset_of, size_of, zeroed};
use std::ptr::{null, null_mut};
use std::sync::Mutex;

use super::engine::*;
use super::error::*;
use super::ffi::{Struct, in_ref, in_struct, out_struct};
use super::guidance::{diffusion_guidance_desc, diffusion_predictions};
use super::image::*;
use super::job::*;
use super::model::*;
use super::option::*;
use super::request::*;
use super::sampler::{diffusion_question, diffusion_sampler_plan};
use super::sampler_desc::diffusion_sampler_desc;
use super::sampler_info::{diffusion_sampler_info, diffusion_sigma_schedule_info};
use super::schedule::{diffusion_schedule_desc, diffusion_schedule_info};
use super::session::*;
use super::version::*;
use crate::api::options::{Kind, OPTIONS};
use crate::util::error::{Result, Status};

const OK: diffusion_status = 0;
const INVALID_ARGUMENT: diffusion_status = Status::InvalidArgument as diffusion_status;
const VERSION_MISMATCH: diffusion_status = Status::VersionMismatch as diffusion_status;

fn text<'a>(text: *const c_char) -> &'a str {
    assert!(!text.is_null());
    // SAFETY: the tests ask only for strings that live as long as they look.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap()
}

fn code(result: Result<()>) -> diffusion_status {
    result.map_or_else(|error| error.status() as diffusion_status, |()| OK)
}

/// One of each object. Freed in the worst order.
struct Objects {
    engine: *mut diffusion_engine,
    model: *mut diffusion_model,
    session: *mut diffusion_session,
    request: *mut diffusion_request,
}

impl Objects {
    fn new() -> Self {
        let (mut engine, mut model, mut session, mut request) =
            (null_mut(), null_mut(), null_mut(), null_mut());
        let mut error = null_mut();
        // SAFETY: every pointer is to a local of the right type.
        unsafe {
            let mut desc: diffusion_engine_desc = zeroed();
            diffusion_engine_desc_init(&raw mut desc, size_of::<diffusion_engine_desc>());
            desc.device = 1;
            desc.threads = 1;
            assert_eq!(diffusion_engine_new(&raw const desc, &raw mut engine, &raw mut error), OK);
            let path = crate::testing::root().join("models/emoji-64");
            let path = CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
            assert_eq!(
                diffusion_model_load(engine, path.as_ptr(), null(), &raw mut model, &raw mut error),
                OK
            );
            assert_eq!(diffusion_session_new(model, null(), &raw mut session, &raw mut error), OK);
            assert_eq!(diffusion_request_new(model, &raw mut request, &raw mut error), OK);
            diffusion_request_set_int(request, diffusion_option_enum::DIFFUSION_OPTION_STEPS as i32, 1);
        }
        Self { engine, model, session, request }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // SAFETY: each came from its `_new` and is freed once.
        unsafe {
            diffusion_engine_free(self.engine);
            diffusion_model_free(self.model);
            diffusion_session_free(self.session);
            diffusion_request_free(self.request);
        }
    }
}

/// A structure as a newer or older header might have it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    struct_size: u32,
    a: u32,
    b: u64,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for Known {}

#[repr(C)]
struct Longer {
    known: Known,
    more: u64,
}

fn read(bytes: &mut Longer, size: u32) -> Result<Known> {
    bytes.known.struct_size = size;
    // SAFETY: the structure has at least `size` bytes wherever the call reads them.
    unsafe { in_struct((&raw const *bytes).cast::<Known>(), "desc") }
}

#[test]
fn a_shorter_structure_has_zeros_for_the_rest() {
    let mut desc = Longer { known: Known { struct_size: 0, a: 1, b: 2 }, more: 3 };
    let known = read(&mut desc, 8).unwrap();
    assert_eq!((known.a, known.b), (1, 0));
    let known = read(&mut desc, 4).unwrap();
    assert_eq!((known.a, known.b), (0, 0));
    let known = read(&mut desc, 16).unwrap();
    assert_eq!((known.a, known.b), (1, 2));
    // SAFETY: NULL is allowed.
    let known = unsafe { in_struct::<Known>(null(), "desc") }.unwrap();
    assert_eq!((known.struct_size, known.a, known.b), (0, 0, 0));
}

#[test]
fn a_longer_structure_must_have_zeros_where_nothing_is_known() {
    let mut desc = Longer { known: Known { struct_size: 0, a: 1, b: 2 }, more: 0 };
    assert_eq!(read(&mut desc, 24).unwrap().b, 2);
    desc.more = 1 << 63;
    let error = read(&mut desc, 24).err().unwrap();
    assert_eq!(error.status(), Status::VersionMismatch);
    assert!(error.message().starts_with("desc: struct_size 24 "), "{error}");
    read(&mut desc, 23).unwrap();
}

#[test]
fn a_size_that_cannot_be_is_refused() {
    let mut desc = Longer { known: Known { struct_size: 0, a: 1, b: 2 }, more: 0 };
    for size in [0, 3, 4097, u32::MAX] {
        assert_eq!(read(&mut desc, size).err().unwrap().status(), Status::InvalidArgument, "{size}");
    }
}

#[test]
fn facts_are_written_as_far_as_the_callers_structure_goes() {
    let facts = Known { struct_size: 99, a: 1, b: 2 };
    for (size, expected) in [(4, (7, 7, 7)), (8, (1, 7, 7)), (16, (1, 2, 7)), (24, (1, 2, 7))] {
        let mut info = Longer { known: Known { struct_size: size, a: 7, b: 7 }, more: 7 };
        // SAFETY: the structure has `size` bytes.
        unsafe { out_struct((&raw mut info).cast::<Known>(), "info", facts) }.unwrap();
        assert_eq!((info.known.a, info.known.b, info.more), expected);
        assert_eq!(info.known.struct_size, size, "the caller's size stays");
    }
    let mut info = Longer { known: Known { struct_size: 2, a: 7, b: 7 }, more: 7 };
    // SAFETY: as above.
    let result = unsafe { out_struct((&raw mut info).cast::<Known>(), "info", facts) };
    assert_eq!((code(result), info.known.a), (INVALID_ARGUMENT, 7));
    // SAFETY: NULL is allowed.
    assert_eq!(code(unsafe { out_struct(null_mut::<Known>(), "info", facts) }), INVALID_ARGUMENT);
}

#[test]
fn structures_have_no_holes() {
    // The size is that of the fields: each begins where the one before it ends.
    assert_eq!(size_of::<diffusion_engine_desc>(), 8 * 4 + 2 * 8 + 3 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_engine_info>(), 6 * 4 + 3 * 8 + size_of::<usize>());
    assert_eq!(size_of::<diffusion_model_desc>(), 2 * 4 + size_of::<usize>());
    assert_eq!(size_of::<diffusion_model_info>(), 6 * 4 + 2 * 8 + 3 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_option_info>(), 4 * 4 + 3 * 8 + 2 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_session_desc>(), 2 * 4);
    assert_eq!(size_of::<diffusion_progress>(), 4 * 4 + 8);
    assert_eq!(size_of::<diffusion_result>(), 10 * 4 + 5 * 8);
    assert_eq!(size_of::<diffusion_image_info>(), 6 * 4 + size_of::<usize>());
    assert_eq!(size_of::<diffusion_schedule_desc>(), 8 * 4 + 6 * 8 + 2 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_schedule_info>(), 4 * 4);
    assert_eq!(size_of::<diffusion_sampler_desc>(), 12 * 4 + 9 * 8 + 7 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_sampler_plan>(), 8 * 4 + 8);
    assert_eq!(size_of::<diffusion_question>(), 6 * 4 + 5 * 8 + size_of::<usize>());
    assert_eq!(size_of::<diffusion_sampler_info>(), 6 * 4 + 3 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_sigma_schedule_info>(), 2 * 4 + 3 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_guidance_desc>(), 8 * 4 + 9 * 8 + 2 * size_of::<usize>());
    assert_eq!(size_of::<diffusion_predictions>(), 2 * 4 + 3 * 8 + 6 * size_of::<usize>());
    assert_eq!(offset_of!(diffusion_result, seed), 40);
}

#[test]
fn a_failed_call_leaves_null_and_an_error() {
    let objects = Objects::new();
    // SAFETY: every pointer is NULL or to a local of the right type.
    unsafe {
        let (mut model, mut error) = (objects.model, null_mut());
        let path = c"/no/such/folder";
        let status =
            diffusion_model_load(objects.engine, path.as_ptr(), null(), &raw mut model, &raw mut error);
        assert_eq!(status, Status::NotFound as diffusion_status);
        assert!(model.is_null());
        assert_eq!(diffusion_error_status(error), status);
        assert!(text(diffusion_error_message(error)).contains("/no/such/folder"));
        assert_eq!(diffusion_error_is_usage(error), 0);
        diffusion_error_free(error);

        let mut engine = objects.engine;
        let desc = diffusion_engine_desc { device: 7, struct_size: 64, ..zeroed() };
        assert_eq!(diffusion_engine_new(&raw const desc, &raw mut engine, &raw mut error), INVALID_ARGUMENT);
        assert!(engine.is_null());
        assert_eq!(text(diffusion_error_message(error)), "device: there is no device 7");
        assert_eq!(diffusion_error_is_usage(error), 1);
        diffusion_error_free(error);

        // Success clears what was there.
        let mut info = diffusion_engine_info { struct_size: 56, ..zeroed() };
        error = std::ptr::dangling_mut();
        assert_eq!(diffusion_engine_get_info(objects.engine, &raw mut info, &raw mut error), OK);
        assert!(error.is_null());
        assert_eq!((info.threads, info.device), (1, 1));
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_and_remembered() {
    let objects = Objects::new();
    let prompt = diffusion_option_enum::DIFFUSION_OPTION_PROMPT as diffusion_option;
    // SAFETY: every pointer is NULL or to a local of the right type.
    unsafe {
        let bad = c"caf\xe9";
        assert_eq!(diffusion_request_set_string(objects.request, prompt, bad.as_ptr()), INVALID_ARGUMENT);
        assert_eq!(diffusion_request_set_int(objects.request, 99, 1), INVALID_ARGUMENT);
        let (mut job, mut error) = (null_mut(), null_mut());
        let status = diffusion_submit(objects.session, objects.request, &raw mut job, &raw mut error);
        assert_eq!(status, INVALID_ARGUMENT);
        assert_eq!(text(diffusion_error_message(error)), "prompt is not UTF-8: bad byte at 3");
        assert!(job.is_null());
        diffusion_error_free(error);
    }
}

#[test]
fn a_request_in_use_is_busy() {
    let objects = Objects::new();
    let steps = diffusion_option_enum::DIFFUSION_OPTION_STEPS as diffusion_option;
    // SAFETY: every pointer is NULL or to a local of the right type.
    unsafe {
        let busy = Status::Busy as diffusion_status;
        let request = in_ref(objects.request, "request").unwrap();
        let mut job = null_mut();
        let changing = request.write().unwrap();
        assert_eq!(diffusion_request_set_int(objects.request, steps, 2), busy);
        assert_eq!(diffusion_submit(objects.session, objects.request, &raw mut job, null_mut()), busy);
        drop(changing);
        let submitting = request.read().unwrap();
        assert_eq!(diffusion_request_reset(objects.request), busy);
        assert_eq!(diffusion_submit(objects.session, objects.request, &raw mut job, null_mut()), OK);
        drop(submitting);
        assert_eq!(diffusion_request_set_int(objects.request, steps, 2), OK);
        diffusion_job_free(job);
    }
}

unsafe extern "C" fn record(progress: *const diffusion_progress, user_data: *mut c_void) -> i32 {
    // SAFETY: the library hands a valid structure and the pointer the test gave.
    unsafe {
        let seen = &*user_data.cast::<Mutex<Vec<(u32, diffusion_stage)>>>();
        seen.lock().unwrap().push(((*progress).struct_size, (*progress).stage));
    }
    0
}

#[test]
fn a_job_from_submit_to_pixels() {
    let objects = Objects::new();
    let seen: Mutex<Vec<(u32, diffusion_stage)>> = Mutex::default();
    // SAFETY: every pointer is NULL or to a local of the right type.
    unsafe {
        let user_data = (&raw const seen).cast_mut().cast::<c_void>();
        assert_eq!(diffusion_request_set_progress_callback(objects.request, Some(record), user_data), OK);
        let (mut job, mut image, mut error) = (null_mut(), null_mut(), null_mut());
        assert_eq!(diffusion_submit(objects.session, objects.request, &raw mut job, &raw mut error), OK);
        assert_eq!(diffusion_job_wait(job, -1), OK);
        assert_eq!(diffusion_job_status(job), OK);
        assert!(diffusion_job_error(job).is_null());
        let mut result = diffusion_result { struct_size: size_of::<diffusion_result>() as u32, ..zeroed() };
        assert_eq!(diffusion_job_get_result(job, &raw mut result, &raw mut error), OK);
        assert_eq!((result.image_count, result.width, result.height, result.steps), (1, 64, 64, 1));
        assert_eq!(diffusion_job_take_image(job, 0, &raw mut image, &raw mut error), OK);
        diffusion_job_free(job);
        let mut bytes = vec![0u8; 64 * 64 * 3];
        let (dst, flags) = (bytes.as_mut_ptr().cast::<c_void>(), 0);
        assert_eq!(diffusion_image_copy(image, dst, usize::MAX, 0, 1, flags, &raw mut error), OK);
        assert_eq!(bytes, std::slice::from_raw_parts(diffusion_image_pixels(image), bytes.len()));
        for (format, flags) in [(0, 0), (6, 0), (1, 2)] {
            let status = diffusion_image_copy(image, dst, bytes.len(), 0, format, flags, null_mut());
            assert_eq!(status, INVALID_ARGUMENT);
        }
        diffusion_image_free(image);
    }
    let seen = seen.into_inner().unwrap();
    assert!(
        seen.iter().all(|(size, _)| *size == 24) && seen.iter().any(|(_, stage)| *stage == 3),
        "{seen:?}"
    );
}

#[test]
fn a_cancelled_job_has_an_error_of_its_own() {
    let objects = Objects::new();
    let steps = diffusion_option_enum::DIFFUSION_OPTION_STEPS as diffusion_option;
    // SAFETY: every pointer is NULL or to a local of the right type.
    unsafe {
        diffusion_request_set_int(objects.request, steps, 1000);
        let mut job = null_mut();
        assert_eq!(diffusion_submit(objects.session, objects.request, &raw mut job, null_mut()), OK);
        assert_eq!(diffusion_job_wait(job, 0), diffusion_status_enum::DIFFUSION_PENDING as diffusion_status);
        assert!(diffusion_job_error(job).is_null());
        diffusion_job_cancel(job);
        let cancelled = Status::Cancelled as diffusion_status;
        assert_eq!(diffusion_job_wait(job, -1), cancelled);
        let error = diffusion_job_error(job);
        assert_eq!(diffusion_error_status(error), cancelled);
        assert_eq!(error, diffusion_job_error(job), "lent, not made anew");
        diffusion_job_free(job);
    }
}

#[test]
fn null_is_an_error_everywhere() {
    let mut size = 5;
    // SAFETY: NULL is what is tested.
    let statuses = unsafe {
        [
            diffusion_engine_new(null(), null_mut(), null_mut()),
            diffusion_engine_get_info(null(), null_mut(), null_mut()),
            diffusion_model_load(null_mut(), null(), null(), null_mut(), null_mut()),
            diffusion_model_get_info(null(), null_mut(), null_mut()),
            diffusion_option_get_info(0, null_mut(), null_mut()),
            diffusion_request_new(null(), null_mut(), null_mut()),
            diffusion_request_set_string(null_mut(), 1, null()),
            diffusion_request_set_int(null_mut(), 1, 0),
            diffusion_request_set_float(null_mut(), 1, 0.0),
            diffusion_request_set_floats(null_mut(), 1, null(), 0),
            diffusion_request_set_progress_callback(null_mut(), None, null_mut()),
            diffusion_request_reset(null_mut()),
            diffusion_session_new(null_mut(), null(), null_mut(), null_mut()),
            diffusion_submit(null_mut(), null(), null_mut(), null_mut()),
            diffusion_generate(null_mut(), null(), null_mut(), null_mut()),
            diffusion_job_wait(null_mut(), 0),
            diffusion_job_status(null()),
            diffusion_job_get_progress(null(), null_mut(), null_mut()),
            diffusion_job_get_result(null(), null_mut(), null_mut()),
            diffusion_job_take_image(null_mut(), 0, null_mut(), null_mut()),
            diffusion_job_latents_size(null(), &raw mut size, null_mut()),
            diffusion_job_copy_latents(null(), 0, null_mut(), 0, null_mut()),
            diffusion_image_get_info(null(), null_mut(), null_mut()),
            diffusion_image_copy(null(), null_mut(), 0, 0, 1, 0, null_mut()),
            diffusion_image_save_png(null(), null(), null_mut()),
        ]
    };
    assert_eq!(statuses, [INVALID_ARGUMENT; 25]);
    assert_eq!(size, 0);
    // SAFETY: as above.
    unsafe {
        diffusion_error_free(null_mut());
        diffusion_engine_free(null_mut());
        diffusion_model_free(null_mut());
        diffusion_request_free(null_mut());
        diffusion_session_free(null_mut());
        diffusion_job_cancel(null_mut());
        diffusion_job_free(null_mut());
        diffusion_image_free(null_mut());
        diffusion_engine_desc_init(null_mut(), 40);
        assert_eq!(diffusion_error_status(null()), OK);
        assert_eq!(diffusion_error_is_usage(null()), 0);
        assert_eq!(text(diffusion_error_message(null())), "");
        assert_eq!(text(diffusion_error_detail(null())), "");
        assert_eq!(text(diffusion_image_metadata(null())), "");
        assert!(diffusion_image_pixels(null()).is_null() && diffusion_job_error(null()).is_null());
        assert_eq!(diffusion_option_find(null()), 0);
    }
}

#[test]
fn an_engine_from_a_newer_header_is_refused() {
    let mut engine = null_mut();
    let mut desc = [0u64; 10];
    // SAFETY: 80 bytes, of which the library knows 72.
    unsafe {
        diffusion_engine_desc_init(desc.as_mut_ptr().cast(), 80);
        let pointer = desc.as_mut_ptr();
        assert_eq!(diffusion_engine_new(pointer.cast(), &raw mut engine, null_mut()), OK);
        diffusion_engine_free(engine);
        *pointer.add(9) = 1;
        assert_eq!(diffusion_engine_new(pointer.cast(), &raw mut engine, null_mut()), VERSION_MISMATCH);
        assert!(engine.is_null());
    }
}

#[test]
fn every_status_has_a_name() {
    let names: HashSet<&str> = (-16..=3).map(|status| text(diffusion_status_name(status))).collect();
    assert_eq!(names.len(), 20);
    assert!(!names.contains("UNKNOWN"));
    assert_eq!(text(diffusion_status_name(Status::NotFound as i32)), "NOT_FOUND");
    assert_eq!(text(diffusion_status_name(Status::BufferTooSmall as i32)), "BUFFER_TOO_SMALL");
    assert_eq!(text(diffusion_status_name(-17)), "UNKNOWN");
    assert_eq!(text(diffusion_status_name(4)), "UNKNOWN");
}

#[test]
fn the_header_says_of_each_option_what_the_table_says() {
    let source = include_str!("option.rs");
    let start = source.find("pub enum diffusion_option_enum").unwrap();
    let mut doc = String::new();
    let mut rows = OPTIONS.iter();
    for line in source[start..].lines().skip(1).map(str::trim).take_while(|line| *line != "}") {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
            continue;
        }
        let spec = rows.next().expect("a row for each constant");
        let value = match spec.kind {
            Kind::String if doc.contains("unset is not") => "[string, unset]".to_owned(),
            Kind::String => "[string, \"\"]".to_owned(),
            Kind::Int { default, min: i64::MIN, max: i64::MAX } => format!("[int, {default}, any]"),
            Kind::Int { default, min, max } => format!("[int, {default}, {min}..{max}]"),
            Kind::Float { default, min, max } => format!("[float, {default}, {min}..{max}]"),
            // A sampler itself is an object.
            Kind::Enum(_) if spec.name == "sampler" => "[::diffusion_sampler_id, auto]".to_owned(),
            Kind::Enum(_) => format!("[::diffusion_{}, auto]", spec.name),
            Kind::Floats => "[floats, unset]".to_owned(),
            Kind::Image => "[image, unset]".to_owned(),
        };
        assert!(doc.starts_with(&format!(" {}. {value}", spec.summary)), "{doc}");
        let constant = format!("DIFFUSION_OPTION_{} = {},", spec.name.to_uppercase(), spec.id as i32);
        assert_eq!(line, constant);
        doc.clear();
    }
    assert!(rows.next().is_none());
}

#[test]
fn constants_of_enum_options_count_like_the_choices() {
    let source = include_str!("option.rs");
    for spec in OPTIONS {
        let Kind::Enum(choices) = spec.kind else { continue };
        for (number, choice) in choices.iter().enumerate() {
            let name = format!("DIFFUSION_{}_{}", spec.name.to_uppercase(), choice.to_uppercase());
            assert!(source.contains(&format!("{name} = {number},")), "{name}");
            let id = spec.id as diffusion_option;
            assert_eq!(text(diffusion_option_choice(id, number as i32)), *choice);
            assert!(diffusion_option_choice(id, choices.len() as i32).is_null());
            assert!(diffusion_option_choice(id, -1).is_null());
        }
    }
    assert!(diffusion_option_choice(1, 0).is_null() && diffusion_option_choice(99, 0).is_null());
}

#[test]
fn options_can_be_listed_and_found() {
    for index in 0..diffusion_option_count() {
        // SAFETY: every pointer is to a local of the right type.
        unsafe {
            let size = size_of::<diffusion_option_info>() as u32;
            let mut info = diffusion_option_info { struct_size: size, ..zeroed() };
            assert_eq!(diffusion_option_get_info(index, &raw mut info, null_mut()), OK);
            assert_eq!(diffusion_option_find(info.name), info.option);
            assert!(!text(info.summary).is_empty());
            if text(info.name) == "guidance_scale" {
                assert_eq!((info.r#type, info.min, info.max, info.default_value), (3, 0.0, 100.0, 7.5));
            }
            if text(info.name) == "sampler" {
                assert_eq!((info.r#type, info.choice_count, info.max), (4, 30, 29.0));
            }
        }
    }
    let mut info = diffusion_option_info { struct_size: 56, ..zeroed_struct() };
    // SAFETY: as above.
    let status = unsafe { diffusion_option_get_info(OPTIONS.len(), &raw mut info, null_mut()) };
    assert_eq!(status, INVALID_ARGUMENT);
}

fn zeroed_struct<T: Struct>() -> T {
    // SAFETY: `Struct` makes zeros a valid value.
    unsafe { zeroed() }
}

#[test]
fn the_version_is_that_of_the_crate() {
    let [major, minor, patch] =
        [diffusion_version() / 1_000_000, diffusion_version() / 1000 % 1000, diffusion_version() % 1000];
    assert_eq!(format!("{major}.{minor}.{patch}"), env!("CARGO_PKG_VERSION"));
    assert_eq!(text(diffusion_version_string()), env!("CARGO_PKG_VERSION"));
    for key in ["version: ", "target: ", "profile: ", "cpu: ", "features: "] {
        assert!(text(diffusion_build_info()).lines().any(|line| line.starts_with(key)), "{key}");
    }
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_planted_panic_is_an_error() {
    for (compute, place) in [(0, "src/api/session.rs:"), (1, "src/backend/cpu/mod.rs:")] {
        let objects = Objects::new();
        // SAFETY: every pointer is NULL or to a local of the right type.
        unsafe {
            let (mut image, mut error) = (null_mut(), null_mut());
            assert_eq!(super::experimental::diffusion_x_inject_panic(objects.session, compute), OK);
            let status = diffusion_generate(objects.session, objects.request, &raw mut image, &raw mut error);
            assert_eq!(status, Status::Internal as diffusion_status);
            assert!(image.is_null());
            assert!(text(diffusion_error_message(error)).contains(place));
            diffusion_error_free(error);
            let status = diffusion_generate(objects.session, objects.request, &raw mut image, null_mut());
            assert_eq!(status, Status::InvalidState as diffusion_status);
        }
    }
}

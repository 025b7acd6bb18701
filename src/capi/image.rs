//! Images.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::ptr;

use super::error::{diffusion_error, diffusion_status};
use super::ffi::{self, Handle, Out, Struct, c_string, guard, guard_or, in_ref, in_str, opt_ref, out_struct};
use crate::api::{Format, Image};
use crate::util::error::{Result, bail};

/// How a pixel lies in memory: a value of ::diffusion_format_enum.
/// \since 0.1.0
/// \ingroup images
pub type diffusion_format = i32;

/// Values of ::diffusion_format.
/// \ingroup images
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_format_enum {
    /// Three bytes: red, green, blue.
    DIFFUSION_FORMAT_RGB8 = 1,
    /// Four bytes: red, green, blue, alpha, which is written as 255 and not read.
    DIFFUSION_FORMAT_RGBA8 = 2,
    /// Four bytes: blue, green, red, alpha, which is written as 255 and not read.
    DIFFUSION_FORMAT_BGRA8 = 3,
    /// Three 32-bit floats in 0..1: red, green, blue, as the decoder made them, not rounded to bytes.
    DIFFUSION_FORMAT_RGBF32 = 4,
    /// One byte: the mean of red, green and blue; read as all three of them. For masks.
    DIFFUSION_FORMAT_GRAY8 = 5,
}

/// Flags of diffusion_image_copy(), to be combined with |.
/// \since 0.1.0
/// \ingroup images
#[repr(C)]
#[derive(Clone, Copy)]
pub enum diffusion_copy_flags_enum {
    /// The bottom row comes first, as OpenGL and Unity want it.
    DIFFUSION_COPY_FLIP_Y = 1,
}

/// What diffusion_image_pixels() points to.
/// \since 0.1.0
/// \ingroup images
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_image_info {
    /// sizeof(diffusion_image_info), set by the caller
    pub struct_size: u32,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Channels of a pixel: 3.
    pub channels: u32,
    /// How a pixel lies in memory: ::DIFFUSION_FORMAT_RGB8.
    pub format: diffusion_format,
    /// 0
    pub reserved: u32,
    /// Bytes from one row to the next: width * 3.
    pub row_stride: usize,
}

// SAFETY: struct_size first, no padding, zeros are valid.
unsafe impl Struct for diffusion_image_info {}

/// A picture, immutable: a finished one, or one to start from. It depends on no other object.
/// \since 0.1.0
/// \ingroup images
#[repr(C)]
pub struct diffusion_image {
    _private: [u8; 0],
}

pub struct ImageHandle {
    image: Image,
    metadata: CString,
}

impl ImageHandle {
    pub(super) fn new(image: Image) -> Self {
        let metadata = c_string(image.metadata());
        Self { image, metadata }
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }
}

impl Handle for diffusion_image {
    type Value = ImageHandle;
}

/// Makes an image from pixels of the caller's, to be a request's ::DIFFUSION_OPTION_IMAGE or ::DIFFUSION_OPTION_MASK.
///
/// \param width Width in pixels, 1 to 8192.
/// \param height Height in pixels, 1 to 8192.
/// \param format How a pixel lies in memory. Alpha is not read. Floats outside 0..1 are clamped.
/// \param pixels height rows, top row first, copied: (height - 1) * row_stride bytes and those of one row. No alignment
/// is needed.
/// \param row_stride Bytes from one row to the next, at least those of one row; 0 = rows without gaps.
/// \param image Receives the image, to be freed with diffusion_image_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT for a size out of range or a float that is not finite;
/// ::DIFFUSION_ERROR_OUT_OF_MEMORY.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \sa diffusion_request_set_image
/// \ingroup images
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_image_new(
    width: u32,
    height: u32,
    format: diffusion_format,
    pixels: *const c_void,
    row_stride: usize,
    image: *mut *mut diffusion_image,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(image, "image")?;
            if pixels.is_null() {
                bail!(InvalidArgument, "pixels is NULL");
            }
            let format = pixel_format(format)?;
            let size = format.input_size(width, height, row_stride)?;
            let pixels = std::slice::from_raw_parts(pixels.cast::<u8>(), size);
            out.set(ImageHandle::new(Image::from_pixels(width, height, format, pixels, row_stride)?));
            Ok(())
        })
    }
}

/// Reads a PNG file, of any kind of pixels. Transparency, colour profiles and texts are not read; 16-bit values lose
/// their lower half.
///
/// \param path The file, UTF-8.
/// \param image Receives the image, to be freed with diffusion_image_free(); NULL on failure.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NOT_FOUND; ::DIFFUSION_ERROR_IO; ::DIFFUSION_ERROR_FORMAT for a file that
/// is damaged, no PNG, or larger than 8192 pixels on a side; ::DIFFUSION_ERROR_OUT_OF_MEMORY;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup images
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_image_load_png(
    path: *const c_char,
    image: *mut *mut diffusion_image,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let out = Out::new(image, "image")?;
            out.set(ImageHandle::new(Image::load_png(Path::new(in_str(path, "path")?))?));
            Ok(())
        })
    }
}

/// Tells an image's size and layout.
///
/// \param image The image.
/// \param info Receives the facts; the caller sets struct_size before.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup images
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_image_get_info(
    image: *const diffusion_image,
    info: *mut diffusion_image_info,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let image = &in_ref(image, "image")?.image;
            let facts = diffusion_image_info {
                struct_size: 0,
                width: image.width(),
                height: image.height(),
                channels: 3,
                format: diffusion_format_enum::DIFFUSION_FORMAT_RGB8 as diffusion_format,
                reserved: 0,
                row_stride: image.width() as usize * Format::Rgb8.pixel_size(),
            };
            out_struct(info, "info", facts)
        })
    }
}

/// An image's pixels, where they are.
///
/// Each byte is the decoder's value times 255, rounded to the nearest integer.
///
/// \param image The image, or NULL.
/// \returns height rows of width red-green-blue bytes without gaps, top row first, valid until the image is freed;
/// NULL for NULL.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \sa diffusion_image_copy
/// \ingroup images
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_image_pixels(image: *const diffusion_image) -> *const u8 {
    guard_or(ptr::null(), || {
        // SAFETY: NULL or an image that lives during the call.
        unsafe { opt_ref(image) }.map_or(ptr::null(), |handle| handle.image.pixels().as_ptr())
    })
}

/// Copies an image's pixels in the form a program needs.
///
/// \param image The image.
/// \param dst Receives the rows. No alignment is needed. Bytes between rows are left as they are.
/// \param dst_size Bytes at dst; at least (height - 1) * row_stride plus the bytes of one row.
/// \param row_stride Bytes from one row to the next, at least those of one row; 0 = rows without gaps.
/// \param format How a pixel lies in memory.
/// \param flags 0 or ::DIFFUSION_COPY_FLIP_Y.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_BUFFER_TOO_SMALL, with the bytes needed in the message;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup images
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_image_copy(
    image: *const diffusion_image,
    dst: *mut c_void,
    dst_size: usize,
    row_stride: usize,
    format: diffusion_format,
    flags: u32,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let image = &in_ref(image, "image")?.image;
            if dst.is_null() {
                bail!(InvalidArgument, "dst is NULL");
            }
            let format = pixel_format(format)?;
            let flip_y = copy_flags(flags)?;
            // No more than is needed becomes a slice: dst_size may be any number.
            let size = dst_size.min(image.copy_size(row_stride, format)?);
            let dst = std::slice::from_raw_parts_mut(dst.cast::<u8>(), size);
            image.copy(dst, row_stride, format, flip_y)
        })
    }
}

/// What made an image, as image tools exchange it: the prompt, a line "Negative prompt: ..." if there was one, and
/// a line "Steps: 20, Sampler: ddim, CFG scale: 2.5, Seed: 1, Size: 64x64, Version: libdiffusion 0.1.0".
///
/// \param image The image, or NULL.
/// \returns UTF-8, valid until the image is freed; "" for NULL and for an image that no job made.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup images
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_image_metadata(image: *const diffusion_image) -> *const c_char {
    guard_or(c"".as_ptr(), || {
        // SAFETY: NULL or an image that lives during the call.
        unsafe { opt_ref(image) }.map_or(c"".as_ptr(), |handle| handle.metadata.as_ptr())
    })
}

/// Writes an image as a PNG file, with its metadata in a text chunk "parameters".
///
/// \param image The image.
/// \param path The file, UTF-8. One that is there is replaced.
/// \param error Receives the error on failure, else NULL; may be NULL.
/// \returns ::DIFFUSION_OK; ::DIFFUSION_ERROR_NOT_FOUND if the folder does not exist; ::DIFFUSION_ERROR_IO;
/// ::DIFFUSION_ERROR_INVALID_ARGUMENT.
/// \threadsafety Any thread.
/// \since 0.1.0
/// \ingroup images
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn diffusion_image_save_png(
    image: *const diffusion_image,
    path: *const c_char,
    error: *mut *mut diffusion_error,
) -> diffusion_status {
    // SAFETY: every pointer is NULL or what the header says.
    unsafe {
        guard(error, || {
            let image = &in_ref(image, "image")?.image;
            image.save_png(Path::new(in_str(path, "path")?))
        })
    }
}

/// Frees an image.
///
/// \param image The image, or NULL for nothing to happen.
/// \threadsafety Any thread; the image must not be in use.
/// \since 0.1.0
/// \ingroup images
#[unsafe(no_mangle)]
pub unsafe extern "C" fn diffusion_image_free(image: *mut diffusion_image) {
    // SAFETY: NULL or an image the caller gives up.
    unsafe { ffi::free(image) }
}

fn pixel_format(number: diffusion_format) -> Result<Format> {
    match number {
        1 => Ok(Format::Rgb8),
        2 => Ok(Format::Rgba8),
        3 => Ok(Format::Bgra8),
        4 => Ok(Format::RgbF32),
        5 => Ok(Format::Gray8),
        _ => bail!(InvalidArgument, "format: there is no format {number}"),
    }
}

fn copy_flags(flags: u32) -> Result<bool> {
    const FLIP_Y: u32 = diffusion_copy_flags_enum::DIFFUSION_COPY_FLIP_Y as u32;
    if flags & !FLIP_Y != 0 {
        bail!(InvalidArgument, "flags: {flags:#x} has bits that mean nothing");
    }
    Ok(flags & FLIP_Y != 0)
}

// Finds races and stray accesses by watching every one. Kernels are compiled with -fsanitize=thread, which makes the
// compiler call __tsan_read and __tsan_write before each access to memory; here these calls end in our own functions
// instead of ThreadSanitizer's, which knows nothing of blocks and barriers.
//
// Two accesses to the same bytes, one of them a write, are a race unless a barrier lies between them: sync_block, or
// sync_warp for lanes of one warp. Threads of different blocks have no barrier. This is decided from the order of
// barriers and not from what happened to run first, so a missing barrier is found under any schedule. An asynchronous
// copy writes at any time between its start and its wait, so any access between them is a race.
//
// Remembered per two bytes: the last write, and the last read or that there were many. Reads of shared memory that
// nobody wrote in this block are mistakes too.
#ifdef WATCH
#include "internal.h"

namespace emulator {

// In place of a thread: several threads read, of one warp (WARP | warp) or of more than one.
constexpr uint16_t WARP = 0x8000, MANY = 0xFFFF;

// Time, counted in barriers and starts of blocks.
static uint32_t epoch = 1, launch_start = 1, block_start = 1;
// Number of sync_warp calls, for each warp of the running block.
static std::vector<uint16_t> warp_syncs;

void watch_launch() {
    launch_start = ++epoch;
    warp_syncs.assign(block->warps.size(), 1);
}
void watch_block() { block_start = ++epoch; }
void watch_barrier() { ++epoch; }
void watch_sync_warp() { ++warp_syncs[thread->warp()]; }

// Whether the running thread is sure to come after an earlier access.
static bool is_ordered(uint32_t when, uint16_t who, uint16_t sync, Space space) {
    if (when < launch_start) return true;
    if (when < block_start) return space == Space::shared;
    if (when < epoch || who == thread->id) return true;
    if (who == MANY) return false;
    const unsigned warp = who & WARP ? who & ~WARP : who / 32;
    return warp == thread->warp() && sync < warp_syncs[warp];
}

static void remember_read(Cell& cell) {
    const auto own = uint16_t(thread->id);
    const bool alone = cell.read_epoch != epoch || cell.reader == own;
    const unsigned warp = cell.reader & WARP ? cell.reader & ~WARP : cell.reader / 32;
    cell.reader = alone ? own : cell.reader != MANY && warp == thread->warp() ? uint16_t(WARP | warp) : MANY;
    cell.read_epoch = epoch;
    cell.read_sync = warp_syncs[thread->warp()];
}

static void remember_write(Cell& cell) {
    cell.writer = uint16_t(thread->id);
    cell.write_epoch = epoch;
    cell.write_sync = warp_syncs[thread->warp()];
}

enum class Access { read, write, copy_start, copy_end };

static void access(const void* address, size_t bytes, Access kind) {
    if (!thread || on_a_stack(address)) return;
    Allocation* memory = find(address);
    if (!memory) {
        // The program's own constants.
        extern const char executable_start asm("__executable_start"), executable_end asm("_end");
        if (address >= &executable_start && address < &executable_end && kind == Access::read) return;
        fail("out-of-bounds access to %p, which is in no memory of the device,", address);
    }
    const char* const space = memory->space == Space::shared ? "shared" : "global";
    const size_t at = size_t(static_cast<const unsigned char*>(address) - memory->begin);
    if (at + bytes > memory->bytes) {
        fail("out-of-bounds access, %zu bytes from the start of %zu bytes of %s memory,", at, memory->bytes, space);
    }
    if (uintptr_t(address) % (bytes & -bytes)) fail("misaligned access of %zu bytes", bytes);
    if (memory->cells.empty()) memory->cells.resize(memory->bytes / 2 + 1);
    for (size_t i = at / 2; i <= (at + bytes - 1) / 2; i++) {
        Cell& cell = memory->cells[i];
        const bool written = is_ordered(cell.write_epoch, cell.writer, cell.write_sync, memory->space);
        const bool read = is_ordered(cell.read_epoch, cell.reader, cell.read_sync, memory->space);
        const bool copying = cell.copying && cell.write_epoch >= block_start;
        if (copying && kind != Access::copy_end)
            fail("race with an asynchronous copy at byte %zu of %s memory", i * 2, space);
        if (!written && kind != Access::copy_end) fail("race with a write at byte %zu of %s memory", i * 2, space);
        if (!read && (kind == Access::write || kind == Access::copy_start)) {
            fail("race with a read at byte %zu of %s memory", i * 2, space);
        }
        if (kind == Access::read) {
            if (memory->space == Space::shared && cell.write_epoch < block_start) {
                fail("read of byte %zu of shared memory, which nobody wrote,", i * 2);
            }
            remember_read(cell);
        } else {
            remember_write(cell);
            cell.copying = kind == Access::copy_start;
        }
    }
}

void watch_read(const void* address, size_t bytes) { access(address, bytes, Access::read); }
void watch_write(const void* address, size_t bytes) { access(address, bytes, Access::write); }
void watch_copy_started(const void* address) { access(address, 16, Access::copy_start); }
void watch_copy_finished(const void* address) { access(address, 16, Access::copy_end); }

}  // namespace emulator

// What the compiler calls.
#define ACCESSES(bytes)                                                                        \
    void __tsan_read##bytes(void* address) { emulator::watch_read(address, bytes); }           \
    void __tsan_write##bytes(void* address) { emulator::watch_write(address, bytes); }         \
    void __tsan_unaligned_read##bytes(void* address) { emulator::watch_read(address, bytes); } \
    void __tsan_unaligned_write##bytes(void* address) { emulator::watch_write(address, bytes); }
extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
// Copies of structures.
void __tsan_read_range(void* address, size_t bytes) { emulator::watch_read(address, bytes); }
void __tsan_write_range(void* address, size_t bytes) { emulator::watch_write(address, bytes); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
#endif

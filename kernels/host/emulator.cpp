// Fibers, schedules, barriers.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

namespace emulator {

Block* block = nullptr;
Thread* thread = nullptr;

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

void add_kernel(const char* name, unsigned max_threads, void (*call)(void**),
                std::initializer_list<size_t> parameter_sizes) {
    kernels()[name] = Kernel{name, max_threads, call, parameter_sizes};
}

void fail(const char* format, ...) {
    fprintf(stderr, "emulator: ");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (block)
        fprintf(stderr, " in %s, block (%u, %u, %u)", block->kernel->name.c_str(), block->index.x, block->index.y,
                block->index.z);
    if (thread) fprintf(stderr, ", thread (%u, %u, %u)", thread->index.x, thread->index.y, thread->index.z);
    fprintf(stderr, "\n");
    fflush(stdout);
    _exit(70);
}

Dim3 thread_index() { return thread->index; }
Dim3 block_index() { return block->index; }
Dim3 block_size() { return block->size; }
Dim3 grid_size() { return block->grid; }

// Saves the callee-saved registers and the stack pointer of the running fiber, and goes on where `to` was saved.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
    .text
    .hidden emulator_switch
    .globl emulator_switch
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

// Stacks of the largest block there is, each above a page that catches an overflow. Pages cost memory once touched.
constexpr size_t STACK_BYTES = 128 << 10, PAGE = 4096, MAX_THREADS = 1024;

static unsigned char* stacks() {
    static unsigned char* const all = [] {
        void* memory = mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) fail("no memory for the stacks of threads");
        for (size_t i = 0; i < MAX_THREADS; i++)
            mprotect(static_cast<char*>(memory) + i * STACK_BYTES, PAGE, PROT_NONE);
        return static_cast<unsigned char*>(memory);
    }();
    return all;
}

bool on_a_stack(const void* address) {
    const auto* byte = static_cast<const unsigned char*>(address);
    return byte >= stacks() && byte < stacks() + STACK_BYTES * MAX_THREADS;
}

void yield() { emulator_switch(&thread->stack_pointer, block->scheduler_stack_pointer); }

// A barrier opens once every thread that still runs has come to it.
static void open_barrier_if_all_are_there() {
    if (block->running == 0 || block->at_barrier != block->running) return;
    block->at_barrier = 0;
    block->barriers++;
    block->progress++;
    watch_barrier();
}

static void run_fiber() {
    block->kernel->call(block->parameters);
    if (block->warps[thread->warp()].arrived) fail("a thread returns while lanes of its warp wait for it");
    thread->finished = true;
    block->running--;
    block->progress++;
    open_barrier_if_all_are_there();
    yield();
    abort();
}

static void prepare(Thread& t) {
    t.finished = false;
    t.open_copies.clear();
    t.copy_groups.clear();
    auto** top = reinterpret_cast<void**>(stacks() + STACK_BYTES * (t.id + 1)) - 2;
    *top = reinterpret_cast<void*>(&run_fiber);
    for (int i = 0; i < 6; i++) *--top = nullptr;  // the registers that emulator_switch pops
    t.stack_pointer = top;
}

static void resume(Thread& t) {
    if (t.finished) return;
    thread = &t;
    emulator_switch(&block->scheduler_stack_pointer, t.stack_pointer);
    thread = nullptr;
}

static void run_warp_as_far_as_it_gets(size_t warp) {
    uint64_t before;
    do {
        before = block->progress;
        for (size_t i = warp * 32; i < block->threads.size() && i < warp * 32 + 32; i++) resume(block->threads[i]);
    } while (block->progress != before);
}

// Gives every thread its turn.
static void run_round(uint32_t& random) {
    const size_t threads = block->threads.size(), warps = block->warps.size();
    switch (block->options.schedule) {
    case Schedule::Forward:
        for (size_t i = 0; i < threads; i++) resume(block->threads[i]);
        break;
    case Schedule::Backward:
        for (size_t i = threads; i-- > 0;) resume(block->threads[i]);
        break;
    case Schedule::Shuffled: {
        // Steps of an odd number that shares no factor with the count visit every thread once.
        random = random * 1664525 + 1013904223;
        size_t step = (random >> 8) % threads | 1;
        while (std::gcd(step, threads) != 1) step += 2;
        for (size_t i = 0, at = random % threads; i < threads; i++, at = (at + step) % threads)
            resume(block->threads[at]);
        break;
    }
    case Schedule::WarpByWarp:
        for (size_t i = 0; i < warps; i++) run_warp_as_far_as_it_gets(i);
        break;
    case Schedule::WarpByWarpBackward:
        for (size_t i = warps; i-- > 0;) run_warp_as_far_as_it_gets(i);
        break;
    }
}

void launch(const Kernel& kernel, Dim3 grid, Dim3 size, size_t shared_bytes, void** parameters,
            const Options& options) {
    Block b{};
    b.kernel = &kernel, b.options = options, b.size = size, b.grid = grid, b.parameters = parameters;
    block = &b;
    if (size.count() == 0 || size.count() > kernel.max_threads) fail("%zu threads a block", size.count());
    if (grid.count() == 0 || grid.y > 65535 || grid.z > 65535) fail("a grid of %u, %u, %u", grid.x, grid.y, grid.z);
    b.threads.resize(size.count());
    b.warps.resize((size.count() + 31) / 32);
    for (size_t i = 0; i < b.threads.size(); i++) {
        b.threads[i].id = unsigned(i);
        b.threads[i].index = {unsigned(i % size.x), unsigned(i / size.x % size.y), unsigned(i / size.x / size.y)};
    }
    allocate_shared(shared_bytes);
    watch_launch();
    uint32_t random = 1;
    for (size_t i = 0; i < grid.count(); i++) {
        b.index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
        b.running = unsigned(b.threads.size());
        poison_shared();
        watch_block();
        for (Thread& t : b.threads) prepare(t);
        while (b.running > 0) {
            const uint64_t before = b.progress;
            run_round(random);
            if (b.progress == before) fail("deadlock: threads wait for others that never come");
        }
    }
    release_shared();
    block = nullptr;
}

}  // namespace emulator

void sync_block() {
    using namespace emulator;
    const uint64_t passed = block->barriers;
    block->at_barrier++;
    open_barrier_if_all_are_there();
    while (block->barriers == passed) yield();
}

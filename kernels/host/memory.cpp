// Global memory, shared memory, and the asynchronous copies from one to the other.
//
// Memory ends at a page that nobody may touch, so that reading or writing past its end stops the process at once; the
// few bytes of padding before that page are checked when the memory is released. Under AddressSanitizer memory is the
// sanitizer's, which is exact.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>

#include "internal.h"

#if defined(__SANITIZE_ADDRESS__)
constexpr bool SANITIZED = true;
#else
constexpr bool SANITIZED = false;
#endif

namespace emulator {

constexpr size_t PAGE = 4096, ALIGNMENT = 256;

// By the address of their first byte.
static std::map<const unsigned char*, Allocation> allocations;

static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static void on_segmentation_fault(int, siginfo_t* info, void*) {
    const auto* at = static_cast<unsigned char*>(info->si_addr);
    for (const auto& [begin, a] : allocations) {
        const auto* mapping = static_cast<unsigned char*>(a.mapping);
        if (at < mapping || at >= mapping + a.mapping_bytes) continue;
        const char* space = a.space == Space::shared ? "shared" : "global";
        fail("out-of-bounds access, %td bytes from the start of %zu bytes of %s memory,", at - begin, a.bytes, space);
    }
    fail("segmentation fault at %p", info->si_addr);
}

static void catch_segmentation_faults() {
    static unsigned char handler_stack[64 << 10];
    stack_t stack{};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, nullptr);
    struct sigaction action{};
    action.sa_sigaction = on_segmentation_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
}

static unsigned char* add(size_t bytes, Space space) {
    Allocation a{nullptr, bytes, space, nullptr, 0, {}};
    if (SANITIZED) {
        void* memory = nullptr;
        if (posix_memalign(&memory, ALIGNMENT, bytes) != 0) fail("no memory for %zu bytes", bytes);
        a.begin = static_cast<unsigned char*>(memory);
    } else {
        static const bool caught = (catch_segmentation_faults(), true);
        (void)caught;
        const size_t data = round_up(round_up(bytes, ALIGNMENT), PAGE);
        a.mapping_bytes = PAGE + data + PAGE;
        a.mapping = mmap(nullptr, a.mapping_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        auto* first = static_cast<unsigned char*>(a.mapping) + PAGE;
        if (a.mapping == MAP_FAILED || mprotect(first, data, PROT_READ | PROT_WRITE) != 0) {
            fail("no memory for %zu bytes", bytes);
        }
        memset(first, 0xFF, data);
        a.begin = first + data - round_up(bytes, ALIGNMENT);
    }
    memset(a.begin, 0xFF, bytes);
    allocations.emplace(a.begin, a);
    return a.begin;
}

static void check_padding(const Allocation& a) {
    if (!a.mapping) return;
    const auto* first = static_cast<unsigned char*>(a.mapping) + PAGE;
    const auto* end = static_cast<unsigned char*>(a.mapping) + a.mapping_bytes - PAGE;
    const auto touched = [](unsigned char byte) { return byte != 0xFF; };
    if (std::any_of(first, static_cast<const unsigned char*>(a.begin), touched))
        fail("bytes before %zu bytes were written", a.bytes);
    if (std::any_of(static_cast<const unsigned char*>(a.begin) + a.bytes, end, touched))
        fail("bytes after %zu bytes were written", a.bytes);
}

static void remove(const void* memory) {
    const auto found = allocations.find(static_cast<const unsigned char*>(memory));
    if (found == allocations.end()) fail("release of %p, which is not allocated", memory);
    const Allocation& a = found->second;
    check_padding(a);
    if (a.mapping) {
        munmap(a.mapping, a.mapping_bytes);
    } else {
        free(a.begin);
    }
    allocations.erase(found);
}

void* allocate(size_t bytes) { return add(bytes, Space::global); }
void release(void* memory) {
    if (memory) remove(memory);
}

// The shared memory of the running block: the dynamic part, and the variables in the order in which threads came to
// them.
struct Variable {
    const void* place;
    unsigned char* memory;
    size_t bytes;
};
static unsigned char* dynamic_part = nullptr;
static size_t dynamic_part_bytes = 0;
static std::vector<Variable> variables;

static size_t shared_bytes() {
    size_t bytes = dynamic_part_bytes;
    for (const Variable& v : variables) bytes += v.bytes;
    return bytes;
}

void allocate_shared(size_t dynamic_bytes) {
    dynamic_part = dynamic_bytes ? add(dynamic_bytes, Space::shared) : nullptr;
    dynamic_part_bytes = dynamic_bytes;
    if (shared_bytes() > MAX_SHARED_BYTES) fail("%zu bytes of shared memory", shared_bytes());
}

void poison_shared() {
    if (dynamic_part) memset(dynamic_part, 0xFF, dynamic_part_bytes);
    for (const Variable& v : variables) memset(v.memory, 0xFF, v.bytes);
}

void release_shared() {
    if (dynamic_part) remove(dynamic_part);
    for (const Variable& v : variables) remove(v.memory);
    dynamic_part = nullptr;
    dynamic_part_bytes = 0;
    variables.clear();
}

void* shared_variable(const void* place, size_t bytes) {
    for (const Variable& v : variables) {
        if (v.place == place) return v.memory;
    }
    variables.push_back({place, add(bytes, Space::shared), bytes});
    if (shared_bytes() > MAX_SHARED_BYTES) fail("%zu bytes of shared memory", shared_bytes());
    return variables.back().memory;
}

unsigned char* dynamic_shared() { return dynamic_part; }

Allocation* find(const void* address) {
    const auto* byte = static_cast<const unsigned char*>(address);
    const auto after = allocations.upper_bound(byte);
    if (after == allocations.begin()) return nullptr;
    Allocation& a = std::prev(after)->second;
    return byte < a.begin + a.bytes ? &a : nullptr;
}

void require_shared(const char* operation, const void* address, size_t bytes) {
    const Allocation* a = find(address);
    const auto* byte = static_cast<const unsigned char*>(address);
    if (!a || a->space != Space::shared || byte + bytes > a->begin + a->bytes)
        fail("%s outside shared memory", operation);
    if (uintptr_t(address) % 16) fail("%s at an address that is no multiple of 16", operation);
}

static void perform(const Copy& copy) {
    if (copy.from) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}

void wait_for_copies(int unfinished_groups) {
    auto& groups = thread->copy_groups;
    for (; groups.size() > size_t(unfinished_groups); groups.pop_front()) {
        for (const Copy& copy : groups.front()) {
            if (!block->options.eager_copies) perform(copy);
            watch_copy_finished(copy.to);
        }
    }
}

}  // namespace emulator

void cp_async(void* to, const void* from, bool valid) {
    using namespace emulator;
    require_shared("cp.async", to, 16);
    if (valid && uintptr_t(from) % 16) fail("cp.async from an address that is no multiple of 16");
    if (valid) watch_read(from, 16);
    const Copy copy{to, valid ? from : nullptr};
    watch_copy_started(to);
    if (block->options.eager_copies) perform(copy);
    thread->open_copies.push_back(copy);
}

void cp_async_commit() {
    auto& t = *emulator::thread;
    t.copy_groups.push_back(std::move(t.open_copies));
    t.open_copies.clear();
}

// Settings, counters, names of errors.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "driver.h"

extern char** environ;

namespace driver {

std::mutex turn;

struct Name {
    const char* name;
    uint64_t Values::* field;
    uint64_t initial;
};
#define SETTING(name, initial) {#name, &Values::name, initial},
#define COUNTER(name) {#name, &Values::name, 0},
static Name setting_names[] = {SETTINGS(SETTING)};
static const Name counter_names[] = {COUNTERS(COUNTER)};
#undef SETTING
#undef COUNTER

// STANDIN_NAME=value. A name that is none is a mistake that nobody would notice.
static void read_environment() {
    for (char** variable = environ; *variable; variable++) {
        if (strncmp(*variable, "STANDIN_", 8) != 0) continue;
        std::string name(*variable + 8, strcspn(*variable + 8, "="));
        for (char& c : name) c = char(tolower(c));
        bool known = false;
        for (Name& setting : setting_names) {
            if (name != setting.name) continue;
            setting.initial = strtoull(strchr(*variable, '=') + 1, nullptr, 0);
            known = true;
        }
        if (!known) emulator::fail("%s: the stand-in driver has no such setting", *variable);
    }
}

static void reset(Values& v) {
    const uint64_t memory_in_use = v.memory_in_use, blas_handles = v.blas_handles;
    for (const Name& counter : counter_names) v.*counter.field = 0;
    for (const Name& setting : setting_names) v.*setting.field = setting.initial;
    v.memory_in_use = v.peak_memory = memory_in_use;
    v.blas_handles = blas_handles;
}

static Values initial_values() {
    read_environment();
    Values v{};
    reset(v);
    return v;
}
Values values = initial_values();

bool is_due(uint64_t& countdown) { return countdown > 0 && --countdown == 0; }

}  // namespace driver

using namespace driver;

// 0 if there is no such setting.
API int standin_set(const char* name, uint64_t value) {
    ENTER;
    for (const Name& setting : setting_names) {
        if (strcmp(name, setting.name) != 0) continue;
        values.*setting.field = value;
        return 1;
    }
    return 0;
}

// 0 if there is no such setting or counter.
API int standin_get(const char* name, uint64_t* value) {
    ENTER;
    for (const Name& setting : setting_names) {
        if (strcmp(name, setting.name) == 0) return *value = values.*setting.field, 1;
    }
    for (const Name& counter : counter_names) {
        if (strcmp(name, counter.name) == 0) return *value = values.*counter.field, 1;
    }
    return 0;
}

// Settings as they were at the start, counters 0.
API void standin_reset() {
    ENTER;
    reset(values);
}

static const char* name_of(int result) {
    switch (result) {
#define RESULT(name, value) \
    case value: return "CUDA_" #name;
        RESULTS(RESULT)
#undef RESULT
    default: return nullptr;
    }
}

API Result cuGetErrorName(int result, const char** name) {
    *name = name_of(result);
    return *name ? SUCCESS : ERROR_INVALID_VALUE;
}
API Result cuGetErrorString(int result, const char** text) { return cuGetErrorName(result, text); }

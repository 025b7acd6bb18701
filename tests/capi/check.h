/* A test library in one page: checks that report and go on, tests in tables, topics chosen by name. */
#ifndef CHECK_H
#define CHECK_H

#include <diffusion.h>
#include <stdbool.h>
#include <stdio.h>

typedef struct test {
    const char *name;
    void (*run)(void); /* NULL: not on this system */
} test;

/* Each topic file ends with one of these; main.c lists them. */
#define TOPIC(topic, ...) const test topic##_tests[] = {__VA_ARGS__, {NULL, NULL}}
#define TEST(function) {#function, function}
/* Of what only Linux has; its function is for Linux, too. */
#if defined __linux__
#define LINUX_TEST(function) TEST(function)
#else
#define LINUX_TEST(function) {#function, NULL}
#endif

/* True under valgrind and the like: tests then take fewer steps and repetitions. */
extern bool quick;

/* Records a failure at `file`:`line`; `check_failures` counts them. */
extern int check_failures;
void check_failed(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Reports a false condition and goes on. */
#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition)) check_failed(__FILE__, __LINE__, "%s", #condition);                                        \
    } while (0)

/* Reports a false condition and leaves the test: for what the rest cannot do without. */
#define REQUIRE(condition)                                                                                           \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            check_failed(__FILE__, __LINE__, "%s", #condition);                                                      \
            return;                                                                                                  \
        }                                                                                                            \
    } while (0)

/* Checks that a call returned `want`. */
#define CHECK_STATUS(call, want) check_status(__FILE__, __LINE__, #call, (call), (want))
void check_status(const char *file, int line, const char *call, diffusion_status got, diffusion_status want);

/* Checks a failed call and its error object: the status, the same status in the error, and a message of one line
 * without a trailing dot that contains `culprit`. Frees the error and sets it to NULL. */
#define CHECK_ERROR(call, error, want, culprit)                                                                      \
    do {                                                                                                             \
        diffusion_status check_got = (call);                                                                         \
        check_error(__FILE__, __LINE__, #call, check_got, &(error), (want), (culprit));                              \
    } while (0)
void check_error(const char *file, int line, const char *call, diffusion_status got, diffusion_error **error,
                 diffusion_status want, const char *culprit);

/* Checks one message by the same rules. */
void check_message(const char *file, int line, const char *message, const char *culprit);

#endif

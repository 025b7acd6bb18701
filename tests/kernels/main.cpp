// Runs the tests whose names contain the argument, or all.
#include "harness.h"

int main(int count, char** arguments) {
    size_t run = 0;
    for (const Test& test : tests()) {
        if (count > 1 && !strstr(test.name, arguments[1])) continue;
        test_name() = test.name;
        test.run();
        printf("ok     %s\n", test.name);
        fflush(stdout);
        run++;
    }
    if (run == 0) {
        fprintf(stderr, "no test is named '%s'\n", count > 1 ? arguments[1] : "");
        return 1;
    }
    return 0;
}

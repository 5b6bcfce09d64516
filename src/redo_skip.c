#include "postgres.h"
#include "redo_skip.h"
Size RedoSkipShmemSize(void) { return 0; }
void RedoSkipShmemInit(void) {}
void RedoSkipInstall(void) {}
void RedoSkipGetFigures(RedoFigures *figures) { memset(figures, 0, sizeof(*figures)); }

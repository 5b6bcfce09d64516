#include "postgres.h"
#include "warm_up.h"
Size WarmUpShmemSize(void) { return 0; }
void WarmUpShmemInit(void) {}
void WarmUpRegister(void) {}
void WarmUpGetFigures(WarmUpFigures *figures) { memset(figures, 0, sizeof(*figures)); }
bool WarmUpWriteList(void) { return true; }
void WarmUpLauncherMain(Datum arg) {}
void WarmUpWorkerMain(Datum arg) {}

#include "postgres.h"
#include "page_reload.h"
void PageDirectorySetRedoBase(XLogRecPtr redo) {}
uint32 PageDirectoryReload(uint32 entry, const PageReload *page) { return entry; }
bool PageDirectoryGetReloaded(uint32 entry, PageReload *page) { return false; }
void PageDirectoryDiscardReloaded(uint32 entry) {}
void PageDirectoryReset(void) {}
bool PageDirectoryRedoBound(const lb_page_tag *tag, XLogRecPtr *lsn) { return false; }
void PageDirectoryForgetRedoBound(const lb_page_tag *tag) {}

/** Every operation of this release, for the bus. A test compares it with the command table of the client. */
import { alertOperations } from './alert.ts';
import { applyOperations } from './apply.ts';
import { auditOperations } from './audit.ts';
import { clusterOperations } from './cluster.ts';
import type { ClusterDeps } from './cluster.ts';
import { conflictsOperations } from './conflicts.ts';
import { doctorOperations } from './doctor.ts';
import { envOperations } from './env.ts';
import { eventsOperations } from './events.ts';
import { historyOperations } from './history.ts';
import { hostOperations } from './host.ts';
import { imageOperations } from './image.ts';
import { leaseOperations } from './lease.ts';
import { lockOperations } from './lock.ts';
import { logsOperations } from './logs.ts';
import { namesOperations } from './names.ts';
import type { Operation } from './operation.ts';
import { operatorOperations } from './operator.ts';
import type { OperatorDeps } from './operator.ts';
import { psOperations } from './ps.ts';
import { roleOperations } from './role.ts';
import { serviceOperations } from './service.ts';
import { statusOperations } from './status.ts';
import { storageOperations } from './storage.ts';
import type { HostTools } from './tools.ts';

export interface OperationsDeps extends ClusterDeps, OperatorDeps {
  readonly tools: HostTools;
}

export function allOperations(deps: OperationsDeps): readonly Operation[] {
  return [
    ...clusterOperations(deps),
    ...operatorOperations(deps),
    ...hostOperations(deps.tools),
    ...roleOperations,
    ...applyOperations,
    ...serviceOperations,
    ...psOperations,
    ...logsOperations,
    ...imageOperations,
    ...statusOperations,
    ...doctorOperations(deps.tools),
    ...conflictsOperations,
    ...historyOperations,
    ...eventsOperations,
    ...namesOperations,
    ...auditOperations(deps.tools),
    ...leaseOperations,
    ...storageOperations,
    ...lockOperations(deps.tools),
    ...envOperations,
    ...alertOperations,
  ];
}

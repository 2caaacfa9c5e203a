# The queues of one installation of webhookd, the permissions for them, and the alarms that call a person.
#
#   module "webhookd" {
#     source          = "…/deploy/terraform"
#     alarm_topic_arn = aws_sns_topic.on_call.arn
#   }
#
# The resources are those of deploy/aws/webhookd.yaml, which explains them. A test compares the two.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  partition     = data.aws_partition.current.partition
  account       = data.aws_caller_identity.current.account_id
  region        = data.aws_region.current.region
  suffix        = data.aws_partition.current.dns_suffix
  has_key          = var.kms_key_arn != ""
  has_destinations = var.destination_arns != ""
  alarm_actions    = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]
  roles = merge(
    { for role in aws_iam_role.service_account_role : "service_account_role" => role.name },
    { for role in aws_iam_role.pod_identity_role : "pod_identity_role" => role.name },
    { for role in aws_iam_role.ec2_role : "ec2_role" => role.name },
  )
}

resource "aws_sqs_queue" "queue" {
  name                       = var.queue_name
  visibility_timeout_seconds = var.visibility_timeout
  message_retention_seconds  = var.retention_seconds
  receive_wait_time_seconds  = 20
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letter_queue.arn
    maxReceiveCount     = var.max_receive_count
  })
  sqs_managed_sse_enabled = local.has_key ? null : true
  kms_master_key_id       = local.has_key ? var.kms_key_arn : null

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_sqs_queue" "dead_letter_queue" {
  name                       = "${var.queue_name}-dead-letters"
  visibility_timeout_seconds = 60
  message_retention_seconds  = 1209600
  receive_wait_time_seconds  = 20
  # By name: the queues would wait for each other's attributes.
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = ["arn:${local.partition}:sqs:${local.region}:${local.account}:${var.queue_name}"]
  })
  sqs_managed_sse_enabled = local.has_key ? null : true
  kms_master_key_id       = local.has_key ? var.kms_key_arn : null

  lifecycle {
    prevent_destroy = true
  }
}

data "aws_iam_policy_document" "queue_policy" {
  statement {
    sid       = "NothingWithoutTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.queue.arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_sqs_queue_policy" "queue_policy" {
  queue_url = aws_sqs_queue.queue.url
  policy    = data.aws_iam_policy_document.queue_policy.json
}

data "aws_iam_policy_document" "dead_letter_queue_policy" {
  statement {
    sid       = "NothingWithoutTls"
    effect    = "Deny"
    actions   = ["sqs:*"]
    resources = [aws_sqs_queue.dead_letter_queue.arn]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_sqs_queue_policy" "dead_letter_queue_policy" {
  queue_url = aws_sqs_queue.dead_letter_queue.url
  policy    = data.aws_iam_policy_document.dead_letter_queue_policy.json
}

# The calls of `webhookd serve`.
data "aws_iam_policy_document" "daemon_policy" {
  statement {
    sid       = "Queues"
    effect    = "Allow"
    actions = [
      "sqs:ChangeMessageVisibility",
      "sqs:DeleteMessage",
      "sqs:GetQueueAttributes",
      "sqs:GetQueueUrl",
      "sqs:ReceiveMessage",
      "sqs:SendMessage",
    ]
    resources = [aws_sqs_queue.queue.arn, aws_sqs_queue.dead_letter_queue.arn]
  }
}

resource "aws_iam_policy" "daemon_policy" {
  name_prefix = "webhookd-"
  description = "What the daemon of webhookd may do with ${var.queue_name}"
  policy      = data.aws_iam_policy_document.daemon_policy.json
}

# The calls of `webhookd doctor`, and of a redrive in the SQS console to the main queue as a custom destination.
data "aws_iam_policy_document" "operator_policy" {
  statement {
    sid       = "Doctor"
    effect    = "Allow"
    actions   = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl"]
    resources = [aws_sqs_queue.queue.arn, aws_sqs_queue.dead_letter_queue.arn]
  }

  statement {
    sid       = "RedriveFrom"
    effect    = "Allow"
    actions = [
      "sqs:CancelMessageMoveTask",
      "sqs:DeleteMessage",
      "sqs:ListDeadLetterSourceQueues",
      "sqs:ListMessageMoveTasks",
      "sqs:ReceiveMessage",
      "sqs:StartMessageMoveTask",
    ]
    resources = [aws_sqs_queue.dead_letter_queue.arn]
  }

  statement {
    sid       = "RedriveTo"
    effect    = "Allow"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.queue.arn]
  }

  statement {
    sid       = "Console"
    effect    = "Allow"
    actions   = ["sqs:ListQueues"]
    resources = ["*"]
  }
}

resource "aws_iam_policy" "operator_policy" {
  name_prefix = "webhookd-"
  description = "What operators of webhookd may do with ${var.queue_name}"
  policy      = data.aws_iam_policy_document.operator_policy.json
}

data "aws_iam_policy_document" "key_policy" {
  count = local.has_key ? 1 : 0

  statement {
    sid       = "Key"
    effect    = "Allow"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.kms_key_arn]

    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["sqs.${local.region}.${local.suffix}"]
    }
  }
}

resource "aws_iam_policy" "key_policy" {
  count       = local.has_key ? 1 : 0
  name_prefix = "webhookd-"
  description = "The key of webhookd's queue ${var.queue_name}"
  policy      = data.aws_iam_policy_document.key_policy[0].json
}

# The calls of the role `deliver` to cloud destinations. Each right is for one kind of resource.
data "aws_iam_policy_document" "destination_policy" {
  count = local.has_destinations ? 1 : 0

  statement {
    sid       = "Destinations"
    effect    = "Allow"
    actions = [
      "events:DescribeEventBus",
      "events:PutEvents",
      "sns:Publish",
      "sqs:GetQueueUrl",
      "sqs:SendMessage",
    ]
    resources = split(",", var.destination_arns)
  }
}

resource "aws_iam_policy" "destination_policy" {
  count       = local.has_destinations ? 1 : 0
  name_prefix = "webhookd-"
  description = "The cloud destinations of the webhookd with the queue ${var.queue_name}"
  policy      = data.aws_iam_policy_document.destination_policy[0].json
}

data "aws_iam_policy_document" "service_account_role" {
  count = var.oidc_provider != "" ? 1 : 0

  statement {
    effect    = "Allow"
    actions   = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = ["arn:${local.partition}:iam::${local.account}:oidc-provider/${var.oidc_provider}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.oidc_provider}:aud"
      values   = ["sts.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "${var.oidc_provider}:sub"
      values   = ["system:serviceaccount:${var.kubernetes_namespace}:${var.kubernetes_service_account}"]
    }
  }
}

resource "aws_iam_role" "service_account_role" {
  count              = var.oidc_provider != "" ? 1 : 0
  name_prefix        = "webhookd-"
  description        = "The daemon of webhookd, by IRSA"
  assume_role_policy = data.aws_iam_policy_document.service_account_role[0].json
}

data "aws_iam_policy_document" "pod_identity_role" {
  count = var.pod_identity ? 1 : 0

  statement {
    effect    = "Allow"
    actions   = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-namespace"
      values   = [var.kubernetes_namespace]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-service-account"
      values   = [var.kubernetes_service_account]
    }
  }
}

resource "aws_iam_role" "pod_identity_role" {
  count              = var.pod_identity ? 1 : 0
  name_prefix        = "webhookd-"
  description        = "The daemon of webhookd, by EKS Pod Identity"
  assume_role_policy = data.aws_iam_policy_document.pod_identity_role[0].json
}

data "aws_iam_policy_document" "ec2_role" {
  count = var.instance_role ? 1 : 0

  statement {
    effect    = "Allow"
    actions   = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.${local.suffix}"]
    }
  }
}

resource "aws_iam_role" "ec2_role" {
  count              = var.instance_role ? 1 : 0
  name_prefix        = "webhookd-"
  description        = "The daemon of webhookd, on EC2"
  assume_role_policy = data.aws_iam_policy_document.ec2_role[0].json
}

resource "aws_iam_role_policy_attachment" "daemon_policy" {
  for_each   = local.roles
  role       = each.value
  policy_arn = aws_iam_policy.daemon_policy.arn
}

resource "aws_iam_role_policy_attachment" "key_policy" {
  for_each   = local.has_key ? local.roles : {}
  role       = each.value
  policy_arn = aws_iam_policy.key_policy[0].arn
}

resource "aws_iam_role_policy_attachment" "destination_policy" {
  for_each   = local.has_destinations ? local.roles : {}
  role       = each.value
  policy_arn = aws_iam_policy.destination_policy[0].arn
}

resource "aws_iam_instance_profile" "instance_profile" {
  count       = var.instance_role ? 1 : 0
  name_prefix = "webhookd-"
  role        = aws_iam_role.ec2_role[0].name
}

resource "aws_cloudwatch_metric_alarm" "oldest_message_alarm" {
  alarm_name          = "${var.queue_name}-oldest-message"
  alarm_description   = "A message in ${var.queue_name} has waited too long: do webhookd's workers keep up?"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.queue.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  threshold           = var.oldest_message_seconds
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "dead_letters_alarm" {
  alarm_name          = "${var.queue_name}-dead-letters"
  alarm_description   = "Events are dead: webhookd dead-letters list says which and why"
  evaluation_periods  = 1
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions

  metric_query {
    id          = "dead"
    label       = "Dead events"
    expression  = "visible + hidden"
    return_data = true
  }

  metric_query {
    id          = "visible"
    return_data = false

    metric {
      namespace   = "AWS/SQS"
      metric_name = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.dead_letter_queue.name }
      stat        = "Maximum"
      period      = 60
    }
  }

  metric_query {
    id          = "hidden"
    return_data = false

    metric {
      namespace   = "AWS/SQS"
      metric_name = "ApproximateNumberOfMessagesNotVisible"
      dimensions  = { QueueName = aws_sqs_queue.dead_letter_queue.name }
      stat        = "Maximum"
      period      = 60
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "stuck_alarm" {
  alarm_name          = "${var.queue_name}-stuck"
  alarm_description   = "Messages wait in ${var.queue_name}, and for 15 minutes none was deleted: do webhookd's workers run?"
  evaluation_periods  = 3
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions

  metric_query {
    id          = "stuck"
    label       = "Messages that wait while none is deleted"
    expression  = "IF(FILL(deleted, 0) == 0, visible, 0)"
    return_data = true
  }

  metric_query {
    id          = "visible"
    return_data = false

    metric {
      namespace   = "AWS/SQS"
      metric_name = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.queue.name }
      stat        = "Minimum"
      period      = 300
    }
  }

  metric_query {
    id          = "deleted"
    return_data = false

    metric {
      namespace   = "AWS/SQS"
      metric_name = "NumberOfMessagesDeleted"
      dimensions  = { QueueName = aws_sqs_queue.queue.name }
      stat        = "Sum"
      period      = 300
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "in_flight_alarm" {
  alarm_name          = "${var.queue_name}-in-flight"
  alarm_description   = "Very many messages of ${var.queue_name} wait for another attempt: what do the handlers fail on?"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesNotVisible"
  dimensions          = { QueueName = aws_sqs_queue.queue.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  threshold           = var.in_flight_messages
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
}
